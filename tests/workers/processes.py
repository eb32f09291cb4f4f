"""Real workers for tests: one zygote with numpy in it, models of a few lines, and what the kernel knows of them.

Knows what the worker backend hands to `workers`; the SageMaker dialect runs the models, as people's do. Tests of the
processes use it.
"""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.workers.handler import Launch, Reply, Request
from serving.workers.instance import Instance
from serving.workers.plan import Plan
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor, Wish

ECHO = """
def transform_fn(model, body, content_type, accept):
    return body
"""
MODEL = "def model_fn(folder): return None\n"
"""What comes before every script here: the default would look for weights."""
PYTHON = """
import json, os, sys, time
def transform_fn(model, body, content_type, accept):
    code = body.decode()
    scope = globals()
    try:
        return json.dumps(eval(code, scope))
    except SyntaxError:
        exec(code, scope)
        return "null"
"""
"""A model that does what it is asked: an expression is answered as JSON, a statement is run."""


def soon(seconds: float = 20) -> float:
    """A deadline of the monotonic clock."""
    return time.monotonic() + seconds


def launch_of(folder: Path, source: str = PYTHON, **fields: Any) -> Launch:
    """Write a model of the SageMaker dialect; return how to launch it."""
    code = folder / "code"
    code.mkdir(parents=True, exist_ok=True)
    file = code / "inference.py"
    file.write_text(MODEL + textwrap.dedent(source))
    return Launch(
        **{
            "name": "m",
            "dialect": "sagemaker",
            "folder": str(folder),
            "file": str(file),
            "paths": [str(code)],
            **fields,
        }
    )


class Ends:
    """Counts ends of workers, to wait for."""

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        self.event = threading.Event()

    def __call__(self, instance: Instance) -> None:
        self.instances.append(instance)
        self.event.set()


@contextmanager
def worker(supervisor: Supervisor, launch: Launch, ends: Ends | None = None, **wish: Any) -> Iterator[Instance]:
    """A loaded worker, gone at the end."""
    instance = Instance(supervisor, launch, Wish(launch.name, **wish), ends or Ends())
    try:
        instance.load(soon())
        yield instance
    finally:
        instance.kill()


@contextmanager
def pool(supervisor: Supervisor, launch: Launch, **plan: Any) -> Iterator[Pool]:
    """A started pool, closed at the end."""
    wish = plan.pop("wish", Wish(launch.name))
    made = Pool(Plan(launch, wish, **plan), supervisor)
    made.start()
    try:
        yield made
    finally:
        made.close()


def tell(instance: Instance, code: str, seconds: float = 20) -> Any:
    """Have a worker of `PYTHON` evaluate an expression, or run a statement; return the value."""
    import json

    (reply,) = instance.call([Request(code.encode())], soon(seconds))
    return json.loads(bytes(reply.body))


def send(made: Pool, body: str | bytes, seconds: float = 20) -> Reply:
    """One request to a pool."""
    return made.submit(Request(body.encode() if isinstance(body, str) else body), soon(seconds))


def ask(made: Pool, code: str, seconds: float = 20) -> Any:
    """`tell` for a pool."""
    import json

    return json.loads(bytes(send(made, code, seconds).body))


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def open_files() -> int:
    """How many files this process has open."""
    return len(files_of("self"))


def files_of(pid: int | str) -> set[int]:
    """The numbers of the files that a process has open."""
    return {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}


@contextmanager
def in_background(*actions: Callable[[], object]) -> Iterator[list[Any]]:
    """Run each in a thread; at the end all are done and their results (or exceptions) stand in the list."""
    results: list[Any] = [None] * len(actions)

    def run(number: int, action: Callable[[], object]) -> None:
        try:
            results[number] = action()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(actions)]
    for thread in threads:
        thread.start()
    yield results
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "it hangs"
