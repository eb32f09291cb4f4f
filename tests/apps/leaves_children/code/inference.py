"""Starts a helper, one in a session of its own, and a daemon, when it is asked to misbehave; answers their numbers."""

from __future__ import annotations

import subprocess

HELPER = ["sleep", "600"]


def model_fn(model_dir: str) -> str:
    return "fine"


def transform_fn(model: str, body: bytes, content_type: str, accept: str) -> str:
    if body != b"misbehave":
        return model
    helper = subprocess.Popen(HELPER)
    apart = subprocess.Popen(HELPER, start_new_session=True)
    # Its parent is gone at once, and it belongs to nobody.
    daemon = subprocess.run(
        ["setsid", "sh", "-c", "sleep 600 </dev/null >/dev/null 2>&1 & echo $!"],
        check=True,
        capture_output=True,
        text=True,
    )
    return f"{helper.pid} {apart.pid} {daemon.stdout}"
