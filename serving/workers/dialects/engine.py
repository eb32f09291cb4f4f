"""Runs an engine: somebody else's inference server (vLLM, SGLang, TGI, llama.cpp), as a child of this worker.

It starts the command on a free port of loopback, waits until its `/health` is well, tells whoever calls where it
listens, and ends with it: a worker without its engine is no use, so that the pool starts both anew. Requests do not
come through here: `backends.engine` asks the engine itself, any number at once. What an engine prints is in the log.
"""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from serving.workers.handler import Handler, HandlerError, Launch, Reply, Request

HOST = "127.0.0.1"
PORT, END_IT = "port", "end_it"
"""What a reply tells in its headers, and what a request says with the port of an engine that is not well."""
# Until it is well; as long as a request of a minute's load would not notice.
_LOOK_S = 0.05
# Less than what a worker has for its farewell; what is left then is killed.
_FAREWELL_S = 2.0


def load(launch: Launch) -> Handler:
    """Start the engine and wait until it is well; the server ends a wait that takes too long.

    Raises `HandlerError` where it cannot be started, or ended instead.
    """
    engine = _Engine(launch)
    engine.wait_until_well()
    return engine


class _Engine:
    takes_tensors = False
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None

    def __init__(self, launch: Launch) -> None:
        self._name = launch.name
        self._health = health_of(launch.options)
        self._port, self._claim = _free_port()
        self._is_closed = False
        words = {"port": str(self._port), "name": launch.name, "folder": launch.folder, "python": sys.executable}
        self._command = [_filled(each, words) for each in shlex.split(launch.options["command"])]
        try:
            # Whoever brings the model brings the command, as it could bring any code.
            self._process = subprocess.Popen(  # noqa: S603
                self._command, stdin=subprocess.DEVNULL, env=_environ(launch.device)
            )
        except OSError as error:
            raise HandlerError(
                f"The program of its engine cannot be started ({error}): have it in your image, or correct the command."
            ) from None

    def wait_until_well(self) -> None:
        while not is_well(self._port, self._health, 1.0):
            try:
                status = self._process.wait(_LOOK_S)
            except subprocess.TimeoutExpired:
                continue
            raise HandlerError(
                f"The engine ended with status {status} before its {self._health} was well: what it printed is in the "
                f"log; its program was {self._command[0]:.200}"
            )
        threading.Thread(target=self._end_with_it, daemon=True).start()

    def call(self, requests: list[Request]) -> list[Reply]:
        """Say where the engine listens; end it where the server found that it is not well."""
        if any(each.about.get(END_IT) == self._port for each in requests):
            _log(f"The engine of '{self._name}' is not well: it is ended.")
            self._process.kill()
            self._process.wait()
        return [Reply(headers={PORT: str(self._port)}) for _ in requests]

    def close(self) -> None:
        """Ask the engine to end; the zygote kills what is left of this worker's family."""
        self._is_closed = True
        self._process.terminate()
        try:
            self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            _log(f"The engine of '{self._name}' did not end within {_FAREWELL_S} s: it is killed.")

    def _end_with_it(self) -> None:
        status = self._process.wait()
        if not self._is_closed:
            _log(f"The engine of '{self._name}' ended with status {status}.")
            os._exit(1)


def health_of(options: Mapping[str, str]) -> str:
    """Return the path that answers 200 when the engine is well."""
    return options.get("health", "/health")


def is_well(port: int, health: str, timeout_s: float) -> bool:
    """Ask the engine on `port` for its health; one that hangs is not well, after `timeout_s`."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)
    try:
        connection.request("GET", health)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _log(line: str) -> None:
    os.write(2, f"{line}\n".encode())  # the worker's log


def _free_port() -> tuple[int, socket.socket]:
    """Return a port, and the claim that keeps it from the engines of other workers until this one ends."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if (claim := _claimed(port)) is not None:
            return port, claim


def _claimed(port: int) -> socket.socket | None:
    """Claim a port that its engine opens later; None where another worker has.

    Two engines that share ports (SO_REUSEPORT) would else answer for each other. The claim is an abstract name, which
    ends with its process and is known as far as the port is, in one network namespace.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0wharf-engine-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _filled(word: str, values: dict[str, str]) -> str:
    """Put the values in; other braces are the engine's (JSON)."""
    for name, value in values.items():
        word = word.replace("{" + name + "}", value)
    return word


def _environ(device: str) -> dict[str, str]:
    """Return this process' variables; of several GPUs the one that the model has room on is shown alone."""
    environ = {"PYTHONUNBUFFERED": "1", **os.environ}
    number = device.partition(":")[2]
    if number:
        visible = [each for each in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
        environ["CUDA_VISIBLE_DEVICES"] = visible[int(number)] if int(number) < len(visible) else number
    return environ
