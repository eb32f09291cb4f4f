"""Every member of DJL's Output, with the peer's exact bytes, and the helpers around it."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.workers.compat.djl_python import Input, Output
from serving.workers.compat.djl_python import test_model as desk
from serving.workers.compat.djl_python.encode_decode import encode
from serving.workers.compat.djl_python.input_parser import init_handler, input_formatter, prediction_handler
from serving.workers.compat.djl_python.np_util import to_nd_list
from serving.workers.compat.djl_python.output_formatter import TextGenerationOutput, output_formatter
from serving.workers.compat.djl_python.request import Request
from serving.workers.compat.djl_python.request_io import TextInput, Token
from serving.workers.compat.djl_python.streaming_utils import HFStreamer, StreamingUtils


def test_an_output_is_200_ok_and_empty() -> None:
    """Its fields are plain values."""
    output = Output()
    assert (output.code, output.message, output.properties, output.content.size()) == (200, "OK", {}, 0)
    assert (output.stream_content, output.stream_output_formatter) == (None, None)
    assert (output.finalize_function, output.finalize_args) == (None, ())
    assert Output(code=500, message="no").message == "no"


def test_setters_return_the_output() -> None:
    """People chain them."""
    output = Output()
    assert output.set_code(201).set_message("made").add_property("a", 1) is output
    assert (output.code, output.message, output.get_property("a"), output.get_properties()) == (
        201,
        "made",
        1,
        {"a": 1},
    )


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("é", b"\xc3\xa9"),
        (b"\0", b"\0"),
        (bytearray(b"x"), b"x"),
        ([1, 2], b"[\n  1,\n  2\n]"),
        ({"a": [1, 2]}, b'{\n  "a":[\n    1,\n    2\n  ]\n}'),
        ([], b"[]"),
        ("", b""),
        (None, b"null"),
    ],
)
def test_add_encodes_by_type(value: Any, wanted: bytes) -> None:
    """Text and bytes as they are, anything else as JSON, to the byte."""
    assert bytes(Output().add(value).content.value_at(0)) == wanted


def test_keys_are_strings(caplog: pytest.LogCaptureFixture) -> None:
    """Any other key is converted, with a warning."""
    output = Output().add("x", key=3).add("y", key="k").add("z")
    assert output.content.keys == ["3", "k", None]
    assert "should be a str and is a int" in caplog.text


def test_batch_indexes_become_keys() -> None:
    """`batch_N.`, with the key behind it."""
    output = Output().add("x", batch_index=0).add_as_json(1, batch_index=1).add(b"", "k", 12)
    assert output.content.keys == ["batch_0.", "batch_1.", "batch_12.k"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("é", '"é"'.encode()),
        (np.int64(3), b"3"),
        (np.float32(0.5), b"0.5"),
        (np.float64(0.5), b"0.5"),
        (np.array([[1]]), b"[\n  [\n    1\n  ]\n]"),
        (datetime.datetime(2026, 1, 2, 3, 4), b'"2026-01-02 03:04:00"'),
    ],
)
def test_add_as_json_knows_numpy_and_datetimes(value: Any, wanted: bytes) -> None:
    """And writes UTF-8 unescaped."""
    assert Output().add_as_json(value).content.value_at(0) == wanted


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (float("inf"), ValueError), (np.bool_(1), TypeError), ({1}, TypeError)],
)
def test_add_as_json_refuses_what_json_has_not(value: Any, error: type[Exception]) -> None:
    """NaN is a ValueError, other types a TypeError."""
    with pytest.raises(error):
        Output().add_as_json(value)


@pytest.mark.torch
def test_add_as_json_refuses_tensors() -> None:
    """In json's own words."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="Object of type Tensor is not JSON serializable"):
        Output().add_as_json({"x": torch.zeros(1)})


def test_a_tuple_of_arrays_is_refused() -> None:
    """AttributeError, as there: an array or a list."""
    with pytest.raises(AttributeError):
        Output().add_as_numpy((np.zeros(1), np.zeros(1)))


def test_arrays_are_added_as_ndlist_or_npz() -> None:
    """npz names are numpy's: arr_0 on."""
    row = np.arange(3)
    ndlist = Output().add_as_numpy(row).add_as_numpy([row], key="k")
    assert ndlist.content.value_at(0) == ndlist.content.value_at(1) == to_nd_list([row])
    archive = np.load(io.BytesIO(Output().add_as_npz([row, row]).content.value_at(0)))
    assert archive.files == ["arr_0", "arr_1"]


def test_error_has_status_message_and_body() -> None:
    """424 with a JSON body of three fields."""
    output = Output().error("boom")
    assert (output.code, output.message) == (424, "invoke handler failure")
    assert output.properties == {"content-type": "application/json"}
    wanted = b'{\n  "code":424,\n  "message":"invoke handler failure",\n  "error":"boom"\n}'
    assert output.content.value_at(0) == wanted
    assert Output().error("e", 400, "m").code == 400


def test_streams_are_formatted_as_lines_by_default() -> None:
    """One JSON object a chunk; another formatter, or none, may be given."""
    output = Output().add_stream_content(iter(["a"]))
    assert output.stream_output_formatter("a") == '{"outputs": "a"}\n'
    assert Output().add_stream_content(iter(()), output_formatter=None).stream_output_formatter is None


def test_finalize_calls_back_and_only_logs_errors(caplog: pytest.LogCaptureFixture) -> None:
    """The answer is sent already: nothing may fail it."""
    seen: list[int] = []
    assert Output().execute_finalize() is None
    Output().finalize(seen.append, 1).execute_finalize()
    Output().finalize(lambda: 1 / 0).execute_finalize()
    assert seen == [1]
    assert "the finalize function failed" in caplog.text


def test_an_output_prints_its_types() -> None:
    """JSON of status, properties and the type of each item."""
    shown = json.loads(str(Output().add("x", "k").add_property("p", 1)))
    assert shown["content"] == {"k": "type: <class 'bytes'>"}
    assert (shown["code"], shown["message"], shown["properties"]) == (200, "OK", {"p": 1})


@pytest.mark.parametrize(
    ("accept", "value", "wanted"),
    [
        (None, [1], "application/json"),
        ("application/json", [1], "application/json"),
        ("text/csv", [{"a": 1}], "text/csv"),
        ("tensor/npz", [np.zeros(1)], "tensor/npz"),
        ("tensor/ndlist", np.zeros(1), "tensor/ndlist"),
    ],
)
def test_encode_says_what_it_wrote(accept: str | None, value: Any, wanted: str) -> None:
    """The header follows the format."""
    output = Output()
    encode(output, value, accept)
    assert output.properties == {"Content-Type": wanted}
    assert output.content.size() == 1


def test_encode_writes_csv_with_a_header() -> None:
    """Names first, then a line a dict."""
    output = Output()
    encode(output, [{"a": 1, "b": 2}], "text/csv", key="k")
    assert bytes(output.content.get("k")) == b"a,b\r\n1,2\r\n"


def test_decorators_only_mark() -> None:
    """The function stays what it was."""
    marks = {
        input_formatter: "is_input_formatter",
        output_formatter: "is_output_formatter",
        prediction_handler: "is_prediction_handler",
        init_handler: "is_init_handler",
    }
    for decorate, mark in marks.items():
        function: Callable[[], int] = decorate(lambda: 7)
        assert (getattr(function, mark), function()) == (True, 7)


def test_text_generation_has_its_records() -> None:
    """People subclass TextInput and read the tokens of the output."""
    request = Request(TextInput(1, input_text="hi", input_ids=[4, 5]))
    assert isinstance(request.request_output, TextGenerationOutput)
    request.request_output.sequences[0].tokens += [Token(4, "h"), Token(5, "i", -0.5, error_msg="e")]
    assert request.request_input.prompt_tokens_length() == 2
    assert request.request_output.get_tokens_as_dict() == [
        {"id": 4, "text": "h", "log_prob": None},
        {"id": 5, "text": "i", "log_prob": -0.5, "error_msg": "e"},
    ]


class _Tokens(dict[str, Any]):
    def to(self, device: str) -> _Tokens:
        return _Tokens(self, device=device)


class _Tokenizer:
    pad_token = None
    eos_token = "</s>"

    def __call__(self, inputs: list[str], **options: Any) -> _Tokens:
        return _Tokens(input_ids=inputs)

    def decode(self, ids: list[int], **options: Any) -> str:
        return chr(ids[0])


def _generate(streamer: HFStreamer, device: str, max_new_tokens: int, **inputs: Any) -> None:
    streamer.put(np.array([[1, 2, 3]]))
    for code in range(97, 97 + max_new_tokens):
        streamer.put(np.array([code]))
    streamer.end()


def _failing(**inputs: Any) -> None:
    raise RuntimeError("no memory")


@pytest.mark.parametrize("engine", [None, "Accelerate", "DeepSpeed"])
def test_generated_text_streams_as_it_comes(engine: str | None) -> None:
    """By either of the two entry points; the prompt is not repeated."""
    utils = StreamingUtils
    stream = utils.use_hf_default_streamer if engine is None else utils.get_stream_generator(engine)
    chunks = stream(SimpleNamespace(generate=_generate), _Tokenizer(), ["x"], "cpu", max_new_tokens=2)
    assert isinstance(chunks, Iterator)
    assert list(chunks) == [["a"], ["b"]]


def test_an_error_of_generate_is_the_last_chunk() -> None:
    """And an unknown engine is named."""
    failing = SimpleNamespace(generate=_failing)
    assert list(StreamingUtils.use_hf_default_streamer(failing, _Tokenizer(), ["x"])) == ["no memory"]
    with pytest.raises(ValueError, match="'vllm'"):
        StreamingUtils.get_stream_generator("vllm")


def test_an_error_of_generate_in_a_rank_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a chunk it would look like its sister's, and the group would wait for this rank."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    chunks = StreamingUtils.use_hf_default_streamer(SimpleNamespace(generate=_failing), _Tokenizer(), ["x"])
    with pytest.raises(RuntimeError, match="no memory"):
        next(chunks)


def test_closing_the_stream_ends_the_generation() -> None:
    """After the chunk that was read last; none is made ahead."""
    made: list[int] = []

    def generate(streamer: HFStreamer, **inputs: Any) -> None:
        for code in (0, 97, 98, 99):
            made.append(code)
            streamer.put(np.array([code]))

    chunks = StreamingUtils.use_hf_default_streamer(SimpleNamespace(generate=generate), _Tokenizer(), ["x"])
    assert (next(chunks), made) == (["a"], [0, 97])
    chunks.close()
    assert (list(chunks), made) == ([], [0, 97])


def _handle(inputs: Input) -> Output:
    outputs = Output()
    for index, item in enumerate(inputs.get_batches()):
        outputs.add(item.get_as_bytes(), batch_index=index if inputs.is_batch() else None)
    return outputs


def test_people_try_handlers_on_their_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to build, a caller, and readers of what comes back."""
    monkeypatch.setenv("OPTION_DTYPE", "fp16")
    module = ModuleType("mine")
    vars(module)["handle"] = _handle
    handler = desk.TestHandler(module, "/m")
    assert handler.serving_properties == {"dtype": "fp16", "model_dir": "/m"}
    assert desk.extract_output_as_string(handler.inference(desk.create_text_request("hi"))) == "hi"
    assert handler.inference_batch([1, 2], [{"a": "b"}]).content.values == [b"1", b"2"]


def test_desk_requests_carry_arrays() -> None:
    """Both formats, there and back."""
    ndlist = _handle(desk.create_numpy_request([np.arange(2)]))
    archive = _handle(desk.create_npz_request([np.arange(2)]))
    assert desk.extract_output_as_numpy(ndlist)[0].tolist() == [0, 1]
    assert desk.extract_output_as_npz(archive)[0].tolist() == [0, 1]
    assert desk.extract_output_as_bytes(archive)[:2] == b"PK"
