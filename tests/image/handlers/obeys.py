"""A SageMaker handler that does what the request's body says; the tests of images copy it into a repository."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import Any


def model_fn(model_dir: str) -> list[Any]:
    return []


def transform_fn(kept: list[Any], body: bytes, content_type: str, accept: str) -> bytes | str:
    words = bytes(body[:100]).decode("latin-1").split()
    commands = {each.__name__: each for each in (who, hang, hold, orphan, cache, thread, version)}
    return commands[words[0]](kept, *words[1:]) if words and words[0] in commands else bytes(body)


def who(kept: list[Any]) -> str:
    return json.dumps({"uid": os.getuid(), "pid": os.getpid(), "cwd": str(Path.cwd())})


def hang(kept: list[Any], mark: str) -> str:
    Path(mark).touch()
    signal.pause()
    return ""


def hold(kept: list[Any], size: str) -> str:
    """Hold so many bytes, every page of them written."""
    kept.append(bytearray(b"x") * int(size))
    return "held"


def orphan(kept: list[Any]) -> str:
    """Leave a process behind that has left our session and hears no SIGTERM."""
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    return str(child.pid)


def cache(kept: list[Any]) -> str:
    """Write where libraries keep their caches."""
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "library"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kept").write_text("kept")
    return str(folder)


def thread(kept: list[Any]) -> str:
    """Start a thread, as numerical libraries do."""
    said: list[str] = []
    started = threading.Thread(target=said.append, args=("started",))
    started.start()
    started.join()
    return said[0]


def version(kept: list[Any], module: str) -> str:
    return str(import_module(module).VERSION)
