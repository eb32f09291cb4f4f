"""A Python model behind the dynamic batcher, over the wire: clients that ask together share a call of `execute`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server import RunningServer

triton = pytest.importorskip("tritonclient.http")
utils = pytest.importorskip("tritonclient.utils")

# COUNT is how many requests a call has; four rows are the preferred size. The real tritonserver is asked the same.
MODEL = Path(__file__).parents[1] / "oracle/repository/gathers"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client with connections for four requests at once."""
    folder = tmp_path_factory.mktemp("batches")
    shutil.copytree(MODEL, folder / "models" / "gathers", ignore=shutil.ignore_patterns("__pycache__"))
    with RunningServer(folder / "models", folder / "server.log") as server:
        client = triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4)
        client.infer("gathers", [rows_of([[9]] * 4)])  # loaded
        yield client
        client.close()


def rows_of(rows: list[list[int]]) -> Any:
    """The model's input."""
    array = np.array(rows, np.int32)
    return triton.InferInput("IN", list(array.shape), "INT32").set_data_from_numpy(array)


def together(client: Any, *requests: list[list[int]]) -> list[Any]:
    """Send all at once; return how many requests each one's call had, or the error."""

    def result(sent: Any) -> Any:
        try:
            return int(sent.get_result().as_numpy("COUNT")[0, 0])
        except utils.InferenceServerException as error:
            return error.message()

    sent = [client.async_infer("gathers", [rows_of(rows)]) for rows in requests]
    return [result(each) for each in sent]


def numbers(client: Any) -> tuple[int, int, dict[int, int]]:
    """Rows, calls, and calls by their rows, so far."""
    stats = client.get_inference_statistics("gathers")["model_stats"][0]
    batches = {each["batch_size"]: each["compute_infer"]["count"] for each in stats["batch_stats"]}
    return stats["inference_count"], stats["execution_count"], batches


def test_requests_of_several_clients_are_one_call_and_counted_so(client: Any) -> None:
    """One execution of four rows; the queue's time is counted for each request."""
    rows, calls, batches = numbers(client)
    assert together(client, [[1]], [[2]], [[3]], [[4]]) == [4, 4, 4, 4]
    assert together(client, [[1], [2]], [[3], [4]]) == [2, 2]

    assert numbers(client) == (rows + 8, calls + 2, batches | {4: batches[4] + 2})
    queue = client.get_inference_statistics("gathers")["model_stats"][0]["inference_stats"]["queue"]
    assert queue["count"] == 7
    assert queue["ns"] > 0


def test_an_error_is_one_requests_own(client: Any) -> None:
    """Its neighbours are answered."""
    assert together(client, [[1]], [[2]], [[3]], [[-1]]) == [4, 4, 4, "an error of one of them"]
