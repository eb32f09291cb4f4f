"""Streams of gRPC: decoupled models, several requests over one, errors in the middle, the empty last response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.oracle.clients import Input, Output, make_input, make_output, stream, stream_aio
from tests.oracle.conftest import Same
from tests.oracle.servers import Target

VECTOR = np.arange(16, dtype=np.float32).reshape(1, 16)


def repeat(*values: int, **more: Any) -> dict[str, Any]:
    """Return a request for the model that answers once for each value."""
    given = make_input("grpc", Input("IN", np.array(values, np.int32)))
    return {"model_name": "repeat", "inputs": [given], **more}


def add_sub(*names: str, **more: Any) -> dict[str, Any]:
    """Return a request for a model that answers once."""
    inputs = [make_input("grpc", Input(name, VECTOR)) for name in names]
    return {"model_name": "add_sub", "inputs": inputs, "outputs": [make_output("grpc", Output("OUTPUT0"))], **more}


CASES: dict[str, list[dict[str, Any]]] = {
    "three responses": [repeat(1, 2, 3, request_id="a")],
    "no response": [repeat(request_id="a")],
    "three and an empty last one": [repeat(1, 2, 3, request_id="a", enable_empty_final_response=True)],
    "only the empty last one": [repeat(request_id="a", enable_empty_final_response=True)],
    "an error in the middle": [repeat(1, -1, 3, request_id="a")],
    "an error and the empty last one": [repeat(-1, request_id="a", enable_empty_final_response=True)],
    "not decoupled": [add_sub("INPUT0", "INPUT1", request_id="a")],
    "not decoupled with the empty last one": [
        add_sub("INPUT0", "INPUT1", request_id="a", enable_empty_final_response=True)
    ],
    "a refused request": [add_sub("INPUT0", request_id="a")],
    "an unknown model": [{"model_name": "nope", "inputs": repeat(1)["inputs"], "request_id": "a"}],
    "parameters": [repeat(1, request_id="a", parameters={"text": "b"})],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("send", [stream, stream_aio], ids=["callback", "aio"])
def test_one_request(target: Target, same: Same, send: Any, case: str) -> None:
    """All that comes back, in order."""
    same(send(target, CASES[case]))


@pytest.mark.parametrize("send", [stream, stream_aio], ids=["callback", "aio"])
def test_several_requests_over_one_stream(target: Target, same: Same, send: Any) -> None:
    """Each request's answers are in order; those of several are told apart by id."""
    came = send(target, [repeat(number, number + 1, request_id=str(number)) for number in range(5)])
    same(sorted(came, key=lambda each: each["response"]["id"]))


@pytest.mark.parametrize("send", [stream, stream_aio], ids=["callback", "aio"])
def test_a_stream_goes_on_after_an_error(target: Target, same: Same, send: Any) -> None:
    """A refused request does not end it."""
    came = send(target, [add_sub("INPUT0", request_id="a"), add_sub("INPUT0", "INPUT1", request_id="b")])
    same(sorted(came, key=str))
