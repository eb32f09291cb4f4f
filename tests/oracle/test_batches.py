"""The dynamic batcher before a Python model: who shares a call of `execute`, what fails with whom, what is counted.

Four rows are the preferred size, so that requests that are sent together share a call at once, in whatever order they
come. Others wait for a second.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.oracle.clients import Input, call, infer, make_input, stream
from tests.oracle.conftest import Same
from tests.oracle.servers import Target

# By case: the rows of each request.
CASES: dict[str, list[list[list[int]]]] = {
    "four of one row": [[[1]], [[2]], [[3]], [[4]]],
    "two of two rows": [[[1], [2]], [[3], [4]]],
    "one of three rows and one of one": [[[1], [2], [3]], [[4]]],
    "one of four rows": [[[1], [2], [3], [4]]],
    "one of them an error": [[[1]], [[2]], [[3]], [[-1]]],
    "all of them errors": [[[-1]], [[-1]], [[-1]], [[-1]]],
    "one of them raises": [[[1]], [[2]], [[3]], [[-2]]],
    "alone, after the delay": [[[1]]],
    "more rows than the model takes": [[[1]] * 9],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("flavour", ["http", "grpc"])
def test_requests_that_are_sent_together(target: Target, same: Same, flavour: str, case: str) -> None:
    """Each one's answer, and the statistics of them all."""
    before = numbers(target)
    with ThreadPoolExecutor(4) as clients:
        sent = [clients.submit(ask, target, flavour, rows) for rows in CASES[case]]
        answers = [each.result() for each in sent]
    after = numbers(target)
    counted = {key: after[key] - before.get(key, 0) for key in after}
    same({"answers": answers, "counted": {key: count for key, count in counted.items() if count}})


def test_requests_of_other_shapes(target: Target, same: Same) -> None:
    """A request of another shape ends a batch, which goes at once; the other shape has its own delay."""
    with ThreadPoolExecutor(4) as clients:
        first = [clients.submit(ask, target, "http", [[number]]) for number in (1, 2)]
        threading.Event().wait(0.3)
        second = [clients.submit(ask, target, "http", [[number, number]]) for number in (3, 4)]
        same([each.result() for each in (*first, *second)])


def test_a_decoupled_model(target: Target, same: Same) -> None:
    """It gets lists, too, and answers each request as often as it likes."""
    with ThreadPoolExecutor(4) as clients:
        requests = [
            {
                "model_name": "gathers_streams",
                "inputs": [make_input("grpc", Input("IN", np.array([[number]], np.int32)))],
                "request_id": str(number),
            }
            for number in range(4)
        ]
        same([each.result() for each in [clients.submit(stream, target, [each]) for each in requests]])


# By case: what each request says that waits behind one of 1.5 s; they are sent one after the other.
QUEUES: dict[str, list[dict[str, Any]]] = {
    "two": [{}, {}],
    "more than may wait": [{}, {}, {"request_id": "third"}],
    "priorities": [{"priority": 3}, {"priority": 2}, {"priority": 1}, {"priority": 3}],
    "no such priority": [{"priority": 9}, {"priority": 1}],
    "a timeout": [{"priority": 1, "timeout": 200_000, "request_id": "first"}, {}],
    "a timeout that is no shorter": [{"priority": 1, "timeout": 60_000_000}, {}],
    "a timeout where there is none to shorten": [{"timeout": 200_000}, {}],
    "who is delayed for its timeout": [{"priority": 2}, {"priority": 3}, {"priority": 1}],
    "a timeout where none may be said": [{"priority": 2, "timeout": 1000}],
}


@pytest.mark.parametrize("case", QUEUES)
@pytest.mark.parametrize("flavour", ["http", "grpc"])
def test_requests_that_wait(target: Target, same: Same, flavour: str, case: str) -> None:
    """The number of each one's call, or why it is refused."""
    count(target, flavour, 0)
    pause = threading.Event()
    with ThreadPoolExecutor(5) as clients:
        sent = [clients.submit(count, target, flavour, 1)]
        for each in QUEUES[case]:
            pause.wait(0.15)
            sent.append(clients.submit(count, target, flavour, 2, **each))
        same([each.result() for each in sent])


def count(target: Target, flavour: str, mode: int, **said: Any) -> Any:
    """Infer once."""
    return infer(target, flavour, "queues", [Input("IN", np.array([[mode]], np.int32))], **said)


def ask(target: Target, flavour: str, rows: list[list[int]]) -> Any:
    """Infer once."""
    return infer(target, flavour, "gathers", [Input("IN", np.array(rows, np.int32))])


def numbers(target: Target) -> dict[str, int]:
    """Return what was counted so far."""
    stats = call(target, "http", "get_inference_statistics", "gathers")["model_stats"][0]
    counted = {key: stats[key] for key in ("inference_count", "execution_count")}
    counted |= {key: stats["inference_stats"][key]["count"] for key in ("success", "fail", "queue", "compute_infer")}
    return counted | {f"batch {each['batch_size']}": each["compute_infer"]["count"] for each in stats["batch_stats"]}
