"""Groups of ranks for tests: a DJL model.py that meets over gloo and then does what it is asked, rank by rank.

Knows what the worker backend hands to `workers`. A request is an expression; `agree()` is a collective operation, and
whoever skips it leaves the others waiting. Tests of groups use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.workers.group import Group
from serving.workers.handler import Launch, Request
from serving.workers.plan import Plan
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor, Wish
from tests.waiting import until
from tests.workers.processes import soon

MODEL = """
import os, random, sys, time
import torch
import torch.distributed as dist
from djl_python import Input, Output

warm = None

def agree():
    one = torch.ones(1)
    dist.all_reduce(one)
    return int(one)

def fail(*ranks):
    if rank in ranks:
        raise ValueError(f"rank {rank} was asked to fail")

def wait_for(name):
    open(f"{name}-{rank}", "w").close()
    while not os.path.exists(name):
        time.sleep(0.002)

def begun():
    open(f"begun-{rank}", "w").close()
    return 0

def stream(count, fault=lambda step: None):
    def steps():
        for step in range(count):
            fault(step)
            yield f"{step}:{agree()} "
    return Output().add_stream_content(steps(), None)

def handle(inputs):
    global rank, warm
    if inputs.is_empty():
        rank = int(os.environ["RANK"])
        warm = inputs.get_properties()
        exec(os.environ.get("AT_LOAD", ""), globals())
        dist.init_process_group("gloo")
        agree()
        return None
    made = eval(inputs.get_as_string(), globals(), {"inputs": inputs})
    return made if isinstance(made, Output) else Output().add_as_json(made)
"""


def ranked_launch(folder: Path, *, at_load: str = "", ranks: int = 2, **fields: Any) -> Launch:
    """Write the model; return how to launch a group of it. `at_load` is run by each rank before it meets the others."""
    (folder / "model.py").write_text(MODEL)
    environ = {"AT_LOAD": at_load, **fields.pop("environ", {})}
    options = {"tensor_parallel_degree": str(ranks)}
    file = str(folder / "model.py")
    return Launch("m", "djl", str(folder), file=file, ranks=ranks, options=options, environ=environ, **fields)


@contextmanager
def groups(supervisor: Supervisor, launch: Launch, **plan: Any) -> Iterator[Pool]:
    """A started pool of groups, closed at the end."""
    made = Pool(Plan(launch, Wish(launch.name), **plan), supervisor)
    made.start()
    try:
        yield made
    finally:
        made.close()


def ask(made: Pool, code: str, seconds: float = 20) -> Any:
    """Have all ranks evaluate an expression; return what rank 0 answers, or the status with the text of an error."""
    reply = made.submit(Request(code.encode()), soon(seconds))
    text = bytes(reply.body).decode()
    return json.loads(text) if reply.status == 200 else (reply.status, text)


def shared_files() -> set[str]:
    """What lies in /dev/shm, but for what servers beside us hold there."""
    return {each.name for each in Path("/dev/shm").iterdir() if not each.name.startswith("wharf_")}


def pids(made: Pool) -> list[int]:
    """The processes of the only group, by rank, as soon as there is one."""
    until(lambda: made._live)
    (group,) = made._live
    assert isinstance(group, Group)
    return group.pids
