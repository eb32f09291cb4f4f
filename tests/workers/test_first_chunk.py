"""No piece of a stream waits for the next: over HTTP, the first one is read while the second does not exist yet.

Each model waits, between the two, for somebody to open a pipe; the test opens it when it has read the first.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.server import RunningServer
from tests.waiting import until
from tests.workers.spellings import save_bytes
from tests.workers.streaming_models import COUNTED, hold, let_go, runs

pytestmark = pytest.mark.torch

DJL = """
from djl_python import Output

def chunks():
    yield "one"
    open("go").read()
    yield "two"

def handle(inputs):
    return None if inputs.is_empty() else Output().add_stream_content(chunks(), None)
"""
TRITON = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.go = os.path.join(args["model_repository"], "go")

    def execute(self, requests):
        sender = requests[0].get_response_sender()
        for text in (b"one", b"two"):
            tensor = pb_utils.Tensor("text_output", np.array([text], np.object_))
            sender.send(pb_utils.InferenceResponse([tensor]))
            if text == b"one":
                open(self.go).read()
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
CONFIG = """
backend: "python"
model_transaction_policy { decoupled: True }
input [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]
"""


def first_and_rest(server: RunningServer, pipe: Path, route: str, document: object, **headers: str) -> tuple[str, str]:
    """Return what is read before the pipe is opened, and after."""
    with server.client.stream("POST", route, json=document, headers=headers) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_text()
        first = next(pieces)
        let_go(pipe)
        return first, "".join(pieces)


def test_djls_first_chunk_comes_before_the_second_is_made(start_server: StartServer, http_server: str) -> None:
    """add_stream_content."""
    server = start_server(WHARF_HTTP_SERVER=http_server)
    folder = server.root / "slow"
    folder.mkdir()
    (folder / "model.py").write_text(DJL)
    os.mkfifo(folder / "go")
    assert first_and_rest(server, folder / "go", "/models/slow/invoke", {}) == ("one", "two")


def test_tritons_first_event_comes_before_the_second_is_made(start_server: StartServer, http_server: str) -> None:
    """generate_stream."""
    server = start_server(WHARF_HTTP_SERVER=http_server)
    folder = server.root / "slow"
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").write_text(TRITON)
    (folder / "config.pbtxt").write_text(CONFIG)
    os.mkfifo(folder / "go")
    first, rest = first_and_rest(server, folder / "go", "/v2/models/slow/generate_stream", {"text_input": "x"})
    assert first.startswith("data: {")
    assert ('"text_output":"one"' in first, '"text_output":"two"' in rest) == (True, True)


@pytest.mark.parametrize("accept", ["application/jsonlines", "text/event-stream"])
def test_the_first_token_comes_before_the_second_is_made(
    start_server: StartServer, http_server: str, accept: str, tmp_path: Path
) -> None:
    """Of a Hugging Face folder."""
    pytest.importorskip("transformers")
    server = start_server(WHARF_HTTP_SERVER=http_server, HF_MODULES_CACHE=str(tmp_path / "modules"))
    folder = save_bytes(server.root, "slow")
    hold(folder)
    document = {"inputs": "hello", "parameters": {"max_new_tokens": 3, "do_sample": False}}
    first, rest = first_and_rest(server, folder / "go", "/models/slow/invoke", document, Accept=accept)
    assert (first.count('"token"'), rest.count('"token"'), "generated_text" in rest) == (1, 2, True)


def test_a_client_that_leaves_ends_the_generation_in_all_ranks(start_server: StartServer, http_server: str) -> None:
    """After the same token; the next request is answered by the same processes."""
    pytest.importorskip("accelerate")
    server = start_server(WHARF_HTTP_SERVER=http_server)
    weights = save_bytes(server.root.parent)
    folder = server.root / "big"
    folder.mkdir()
    (folder / "model.py").write_text(COUNTED)
    properties = f"engine=MPI\noption.tensor_parallel_degree=2\noption.model_id={weights}\n"
    (folder / "serving.properties").write_text(properties)
    long = {"inputs": "hello", "parameters": {"max_new_tokens": 100_000, "min_new_tokens": 100_000}, "stream": True}
    with server.client.stream("POST", "/models/big/invoke", json=long) as answer:
        next(answer.iter_lines())
    short = {"inputs": "hello", "parameters": {"max_new_tokens": 2, "min_new_tokens": 2}}
    assert server.client.post("/models/big/invoke", json=short).status_code == 200
    until(lambda: runs(folder, 0) == runs(folder, 1))
    assert 3 <= runs(folder, 0) < 10_000
    assert "event=worker_lost" not in server.log()
