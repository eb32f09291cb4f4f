"""A real server in a process of its own, on a free port, for tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import httpx

_LISTENING = re.compile(r"listening on (http://\S+)")


class RunningServer:
    """`wharf serve` as a child; its log in `log_path`. `root` is the model root here, `root_inside` as it sees it."""

    def __init__(
        self, root: Path, log_path: Path, env: Mapping[str, str] | None = None, *, wrap: list[str] | None = None
    ) -> None:
        self.root = root
        self.root_inside = str(root)
        self.log_path = log_path
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("WHARF_", "SAGEMAKER_"))}
        defaults = {
            "WHARF_MODEL_ROOT": str(root),
            "WHARF_CACHE_DIR": str(log_path.parent / "cache"),
            "SAGEMAKER_BASE_DIR": str(log_path.parent / "opt-ml"),
            "WHARF_HOST": "127.0.0.1",
            "WHARF_PORT": "0",
            "WHARF_FAKE_BACKEND": "1",
        }
        self._log = log_path.open("w")
        self.process = subprocess.Popen(
            [*(wrap or []), sys.executable, "-m", "serving.cli", "serve"],
            env=ours | defaults | dict(env or {}),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self.url = self._wait_until_listening()
        self.client = httpx.Client(base_url=self.url, timeout=60)
        self._wait_until_healthy()

    @property
    def is_platform(self) -> bool:
        """Whether models come by POST /models alone."""
        return "mode=platform" in self.log()

    def log(self) -> str:
        """Return everything that the server wrote."""
        return self.log_path.read_text()

    def server_pid(self) -> int:
        """Return the pid of the server process (the master's child)."""
        return int(re.findall(r"event=started pid=(\d+)", self.log())[-1])

    def stop(self, timeout_s: float = 20) -> int:
        """Send SIGTERM and return the exit status."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._log.close()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _wait_until_listening(self) -> str:
        found = self._poll(lambda: _LISTENING.search(self.log()))
        assert isinstance(found, re.Match)
        return str(found[1])

    def _wait_until_healthy(self) -> None:
        def is_up() -> bool:
            try:
                return self.client.get("/ping").status_code in (200, 503)
            except httpx.TransportError:
                return False

        self._poll(is_up)

    def _poll(self, look: object) -> object:
        assert callable(look)
        pause = threading.Event()
        for _ in range(1500):
            found = look()
            if found:
                return found
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            pause.wait(0.02)
        raise AssertionError(f"the server did not start:\n{self.log()}")
