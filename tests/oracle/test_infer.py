"""Inference by each of tritonclient's clients: tensors of every type, binary and JSON, outputs, parameters, errors."""

from __future__ import annotations

import queue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.oracle.clients import WAIT_S, Input, Output, call, infer, make_input, plain_error, plain_value
from tests.oracle.conftest import Same
from tests.oracle.servers import Target

VECTOR = np.arange(16, dtype=np.float32).reshape(1, 16)
BOTH = [Input("INPUT0", VECTOR), Input("INPUT1", VECTOR * 2)]
JSON = [Input("INPUT0", VECTOR, binary=False), Input("INPUT1", VECTOR * 2, binary=False)]
SCORES = [Input("SCORES", np.array([[0.1, 0.4, 0.2, 0.3], [4, 3, 2, 1]], np.float32))]
TEXT = [Input("TEXT", np.array([b"as it is"], np.object_))]

EVERY_TYPE: dict[str, np.ndarray[Any, Any]] = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-(2**15), 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([-1.5, 65504], np.float16),
    "FP32": np.array([-1.5, 3.25e10], np.float32),
    "FP64": np.array([-1.5, 1e300], np.float64),
    "BYTES": np.array([b"", "na\u00efve \U0001f600".encode(), b"\x22quoted\x22"], np.object_),
}


@pytest.mark.parametrize("datatype", EVERY_TYPE)
def test_every_datatype_comes_back_as_it_went(target: Target, same: Same, flavour: str, datatype: str) -> None:
    """In binary."""
    same(infer(target, flavour, "every_type", [Input(f"IN_{datatype}", EVERY_TYPE[datatype])]))


@pytest.mark.parametrize("datatype", sorted(set(EVERY_TYPE) - {"FP16"}))
def test_every_datatype_in_json(target: Target, same: Same, http_flavour: str, datatype: str) -> None:
    """FP16 has no JSON: the client itself refuses it."""
    given = [Input(f"IN_{datatype}", EVERY_TYPE[datatype], binary=False)]
    same(infer(target, http_flavour, "every_type", given, [Output(f"OUT_{datatype}", binary=False)]))


def test_every_datatype_at_once(target: Target, same: Same, flavour: str) -> None:
    """Thirteen inputs, thirteen outputs."""
    same(infer(target, flavour, "every_type", [Input(f"IN_{key}", each) for key, each in EVERY_TYPE.items()]))


def test_an_fp16_output_in_json(target: Target, same: Same, http_flavour: str) -> None:
    """It is refused."""
    given = [Input("IN_FP16", EVERY_TYPE["FP16"])]
    same(infer(target, http_flavour, "every_type", given, [Output("OUT_FP16", binary=False)]))


def test_an_empty_tensor(target: Target, same: Same, flavour: str) -> None:
    """No elements."""
    same(infer(target, flavour, "every_type", [Input("IN_FP32", np.zeros(0, np.float32))]))


@pytest.mark.parametrize("inputs", [BOTH, JSON, [BOTH[0], JSON[1]]], ids=["binary", "json", "mixed"])
@pytest.mark.parametrize("outputs", ["all", "binary", "json", "mixed", "one"])
def test_forms_of_inputs_and_outputs(
    target: Target, same: Same, http_flavour: str, inputs: list[Input], outputs: str
) -> None:
    """Each way to send with each way to ask."""
    wanted = {
        "all": None,
        "binary": [Output("OUTPUT0"), Output("OUTPUT1")],
        "json": [Output("OUTPUT1", binary=False), Output("OUTPUT0", binary=False)],
        "mixed": [Output("OUTPUT0"), Output("OUTPUT1", binary=False)],
        "one": [Output("OUTPUT1")],
    }
    same(infer(target, http_flavour, "add_sub", inputs, wanted[outputs]))


@pytest.mark.parametrize("rows", [1, 8])
def test_rows(target: Target, same: Same, flavour: str, rows: int) -> None:
    """One, and as many as there may be."""
    given = [Input(name, np.repeat(VECTOR, rows, axis=0)) for name in ("INPUT0", "INPUT1")]
    same(infer(target, flavour, "add_sub", given, [Output("OUTPUT0")]))


def test_a_model_without_batching(target: Target, same: Same, flavour: str) -> None:
    """Its shape is literal."""
    same(infer(target, flavour, "unbatched", [Input("ROWS", np.arange(6, dtype=np.float64).reshape(3, 2))]))


@pytest.mark.parametrize("classes", [1, 2, 4, 9])
@pytest.mark.parametrize("output", ["SCORE", "RANK"])
def test_classification(target: Target, same: Same, flavour: str, output: str, classes: int) -> None:
    """With labels and without, for as many classes as there are, fewer and more."""
    same(infer(target, flavour, "labelled", SCORES, [Output(output, classes=classes)]))


def test_classification_in_json(target: Target, same: Same, http_flavour: str) -> None:
    """Beside an output that is none."""
    wanted = [Output("SCORE", binary=False, classes=2), Output("RANK", binary=False)]
    same(infer(target, http_flavour, "labelled", SCORES, wanted))


MORE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "id": {"request_id": "request-7"},
    "sequence": {"sequence_id": 5, "sequence_start": True, "sequence_end": True},
    "sequence by text": {"sequence_id": "five", "sequence_start": True},
    "priority": {"priority": 2},
    "timeout": {"timeout": 5_000_000},
    "parameters": {"parameters": {"text": "a", "count": 3, "is": True}},
    "a number with a point": {"parameters": {"share": 0.5}},
    "a reserved parameter": {"parameters": {"triton_secret": 1}},
    "headers": {"headers": {"x-something": "else"}},
    "version": {"model_version": "1"},
    "another version": {"model_version": "2"},
}


@pytest.mark.parametrize("more", MORE)
def test_what_is_said_besides(target: Target, same: Same, flavour: str, more: str) -> None:
    """What the model is told of it, and what comes back."""
    same(infer(target, flavour, "parameters", TEXT, **MORE[more]))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("way", ["request", "response", "both"])
def test_compression(target: Target, same: Same, http_flavour: str, algorithm: str, way: str) -> None:
    """Of requests, of answers, of both."""
    ways = ["request", "response"] if way == "both" else [way]
    more: dict[str, Any] = {f"{each}_compression_algorithm": algorithm for each in ways}
    same(infer(target, http_flavour, "add_sub", BOTH, **more))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_of_grpc(target: Target, same: Same, algorithm: str) -> None:
    """The whole message is compressed."""
    same(infer(target, "grpc", "add_sub", BOTH, compression_algorithm=algorithm))


def test_async_infer_over_http(target: Target, same: Same) -> None:
    """Sixteen at once over one client, each with its own answer."""
    with tritonclient.http.InferenceServerClient(target.http, concurrency=8) as client:
        asked = [
            client.async_infer("add_sub", [make_input("http", each) for each in BOTH], request_id=str(number))
            for number in range(16)
        ]
        same([plain_value(each.get_result()) for each in asked])


def test_async_infer_over_grpc(target: Target, same: Same) -> None:
    """Sixteen at once, by callbacks."""
    came: queue.Queue[Any] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(target.grpc) as client:
        for number in range(16):
            client.async_infer(
                "add_sub",
                [make_input("grpc", each) for each in BOTH],
                callback=lambda result, error: came.put(plain_error(error) if error else plain_value(result)),
                request_id=str(number),
            )
        found = [came.get(timeout=WAIT_S) for _ in range(16)]
    same(sorted(found, key=lambda each: int(each["response"]["id"])))


@pytest.mark.parametrize("grpc_flavour", ["grpc", "grpc.aio"])
def test_a_deadline_of_the_client(target: Target, same: Same, grpc_flavour: str) -> None:
    """It is over before the model is."""
    given = [Input("MODE", np.array([4], np.int32))]
    same(infer(target, grpc_flavour, "raises", given, client_timeout=0.5))


WRONG: dict[str, tuple[str, list[Input], dict[str, Any]]] = {
    "unknown model": ("nope", BOTH, {}),
    "unknown version": ("add_sub", BOTH, {"model_version": "9"}),
    "a version that is no number": ("add_sub", BOTH, {"model_version": "x"}),
    "never loaded": ("broken_config", BOTH, {}),
    "missing input": ("add_sub", BOTH[:1], {}),
    "missing input with an id": ("add_sub", BOTH[:1], {"request_id": "seven"}),
    "wrong shape": ("add_sub", [Input("INPUT0", np.zeros((1, 15), np.float32)), BOTH[1]], {}),
    "wrong rank": ("add_sub", [Input("INPUT0", np.zeros(16, np.float32)), BOTH[1]], {}),
    "wrong shape without batching": ("unbatched", [Input("ROWS", np.zeros((2, 3)))], {}),
    "too many rows": ("add_sub", [Input(f"INPUT{each}", np.zeros((9, 16), np.float32)) for each in (0, 1)], {}),
    "rows that differ": ("add_sub", [Input("INPUT0", np.zeros((2, 16), np.float32)), BOTH[1]], {}),
    "wrong datatype": ("add_sub", [Input("INPUT0", np.zeros((1, 16), np.int32)), BOTH[1]], {}),
    "no such datatype": ("add_sub", [Input("INPUT0", VECTOR, datatype="FP31"), BOTH[1]], {}),
    "unknown input": ("add_sub", [*BOTH, Input("X", VECTOR)], {}),
    "an input twice": ("add_sub", [*BOTH, BOTH[0]], {}),
    "too few bytes": ("add_sub", [Input("INPUT0", VECTOR[:, :8], shape=(1, 16)), BOTH[1]], {}),
    "too many bytes": ("one_input", [Input("IN", np.zeros((1, 4), np.int32), shape=(1, 3))], {}),
    "a negative dimension": ("one_input", [Input("IN", np.zeros((1, 4), np.int32), shape=(1, -4))], {}),
    "no inputs": ("add_sub", [], {}),
    "decoupled": ("repeat", [Input("IN", np.array([1], np.int32))], {}),
    "no inputs at all for optional ones": ("every_type", [], {}),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(target: Target, same: Same, flavour: str, case: str) -> None:
    """Status and text."""
    model, inputs, more = WRONG[case]
    same(infer(target, flavour, model, inputs, **more))


@pytest.mark.parametrize("outputs", [["ZZ"], ["OUTPUT0", "ZZ"], ["OUTPUT0", "OUTPUT0"]], ids="-".join)
def test_outputs_that_are_not_there(target: Target, same: Same, flavour: str, outputs: list[str]) -> None:
    """One that the model has not, alone and beside another; one twice."""
    same(infer(target, flavour, "add_sub", BOTH, [Output(name) for name in outputs]))


@pytest.mark.parametrize("mode", [0, 1, 2, 3, *range(10, 18)])
def test_a_model_that_raises(target: Target, same: Same, flavour: str, mode: int) -> None:
    """By an exception, by too few answers, by an error with and without a code."""
    same(infer(target, flavour, "raises", [Input("MODE", np.array([mode], np.int32))]))


def test_a_model_name_is_quoted(target: Target, same: Same, flavour: str) -> None:
    """A name that has to be escaped in a path."""
    same(call(target, flavour, "get_model_metadata", "a model/of mine?"))
