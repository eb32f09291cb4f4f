"""DJL's built-in Hugging Face handler: as an entry point, as a stand-in, and as a service that people bend."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.workers.compat.djl_python import Input, Output
from serving.workers.compat.djl_python.huggingface import HuggingFaceService
from serving.workers.handler import HandlerError, Request
from tests.workers.djl_cases import LoadModel, ask, load_model
from tests.workers.huggingface_folders import save
from tests.workers.spellings import save_bytes

__all__ = ["load_model"]

BENT = """
import types
from djl_python.huggingface import HuggingFaceService
from djl_python.encode_decode import decode

_service = HuggingFaceService()

def parse(self, inputs):
    batch = inputs.get_batches()
    prompts = [decode(each, "application/json")["prompt"] for each in batch]
    return prompts, [1] * len(batch), [{}] * len(batch), {}, batch

def handle(inputs):
    if not _service.initialized:
        _service.initialize(inputs.get_properties())
        _service.parse_input = types.MethodType(parse, _service)
    return None if inputs.is_empty() else _service.inference(inputs)
"""


def shout(values: list[Any], mark: str = "!") -> Any:
    return [[{"generated_text": str(each) + mark}] for each in values]


def service() -> HuggingFaceService:
    made = HuggingFaceService()
    made.hf_pipeline = shout
    return made


def question(body: bytes, **properties: str) -> Input:
    inputs = Input()
    inputs.content.add("data", bytearray(body))
    inputs.properties.update(properties)
    return inputs


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"inputs": "a"}', [{"generated_text": "a!"}]),
        (b'{"inputs": ["a", "b"]}', [{"generated_text": "a!"}, {"generated_text": "b!"}]),
        (b'{"inputs": "a", "parameters": {"mark": "?"}}', [{"generated_text": "a?"}]),
        (b'"a"', [{"generated_text": "a!"}]),
    ],
)
def test_inputs_and_parameters_go_to_the_pipeline(body: bytes, wanted: Any) -> None:
    """A list of results, whatever the number of inputs."""
    output: Output = service().inference(question(body, Accept="*/*"))
    assert json.loads(output.content.value_at(0)) == wanted
    assert output.properties == {"Content-Type": "application/json"}


def test_a_body_that_is_no_json_is_an_error() -> None:
    """424, in the decoder's words."""
    assert service().inference(question(b"{")).code == 424


def test_each_request_of_a_batch_has_its_own_parameters_and_errors() -> None:
    """A bad one leaves the others their answers."""
    inputs = Input()
    for index, body in enumerate((b'{"inputs": "a", "parameters": {"mark": "?"}}', b"{", b'{"inputs": ["b", "c"]}')):
        inputs.content.add(f"batch_{index:03d}.data", bytearray(body))
    inputs.properties["batch_size"] = "3"
    first, bad, last = map(json.loads, service().inference(inputs).content.values)
    assert (first, bad["code"], len(last)) == ([{"generated_text": "a?"}], 424, 2)


def test_without_transformers_the_warm_up_says_so(load_model: LoadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what to do."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(HandlerError, match=r"needs transformers.*requirements\.txt"):
        load_model(entryPoint="djl_python.huggingface")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return save(tmp_path, "BertForSequenceClassification")


@pytest.mark.torch
def test_a_folder_without_a_handler_function_gets_the_built_in_one(load_model: LoadModel, folder: Path) -> None:
    """The task comes from the configuration."""
    handler = load_model("UNUSED = 1", model_id=str(folder), dtype="fp32")
    reply = ask(handler, b'{"inputs": "hello world"}', Content_Type="application/json")
    (answer,) = json.loads(bytes(reply.body))
    assert set(answer) == {"label", "score"}


@pytest.mark.torch
def test_people_bend_the_service(load_model: LoadModel, folder: Path) -> None:
    """With a parse_input of their own, alone and in batches."""
    handler = load_model(BENT, model_id=str(folder))
    single = ask(handler, b'{"prompt": "hello"}')
    first, second = handler.call([Request(b'{"prompt": "hello"}'), Request(b'{"prompt": "world"}')])
    assert bytes(first.body) == bytes(single.body) != bytes(second.body)


@pytest.mark.torch
def test_a_model_that_tells_no_task_needs_one(load_model: LoadModel, folder: Path) -> None:
    """option.task, by name."""
    (folder / "config.json").write_text("{}")
    with pytest.raises(HandlerError, match=r"tell no task: set option\.task"):
        load_model(entryPoint="djl_python.huggingface", model_id=str(folder))


@pytest.fixture
def letters(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return str(save_bytes(tmp_path_factory.mktemp("letters")))


STREAM = b'{"inputs": "hello", "parameters": {"max_new_tokens": 3, "do_sample": false}, "stream": true}'
SILENT = STREAM.replace(b', "stream": true', b"")
WHOLE = STREAM.replace(b"true", b"false")
LINES, EVENTS, JSON = "application/jsonlines", "text/event-stream", "application/json"
LMI, TGI, LMI_EVENT, OUTPUTS = b'{"token": {', b'data:{"index": 1, "token": {', b'data: {"token": {', b'{"outputs": ["'


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "body", "accept", "media", "begins"),
    [
        ({}, SILENT, "*/*", JSON, b"["),
        ({}, STREAM, "*/*", LINES, LMI),
        ({}, STREAM, EVENTS, EVENTS, TGI),
        ({}, SILENT, LINES, LINES, LMI),
        ({"output_formatter": "jsonlines"}, SILENT, "*/*", LINES, LMI),
        ({"output_formatter": "jsonlines"}, WHOLE, "*/*", JSON, b"["),
        ({"output_formatter": "sse"}, SILENT, "", EVENTS, LMI_EVENT),
        ({"output_formatter": "sse"}, STREAM, LINES, LINES, LMI),
        ({"enable_streaming": "true"}, SILENT, "*/*", LINES, OUTPUTS),
        ({"enable_streaming": "true", "output_formatter": "jsonlines"}, SILENT, "*/*", LINES, LMI),
        ({"enable_streaming": "true", "output_formatter": "json"}, SILENT, "*/*", JSON, b"["),
        ({"enable_streaming": "true"}, WHOLE, "*/*", JSON, b"["),
        ({"enable_streaming": "false"}, SILENT, "*/*", JSON, b"["),
    ],
)
def test_tokens_are_streamed_to_who_asks_or_as_the_options_say(
    load_model: LoadModel,
    letters: str,
    options: dict[str, str],
    body: bytes,
    accept: str,
    media: str,
    begins: bytes,
) -> None:
    """LMI's lines and events, those of its older handler, TGI's events."""
    handler = load_model(entryPoint="djl_python.huggingface", model_id=letters, **options)
    reply = ask(handler, body, Content_Type="application/json", Accept=accept)
    assert reply.headers["Content-Type"] == media
    chunks = [bytes(each) for each in reply.chunks] if reply.chunks is not None else [bytes(reply.body)]
    assert len(chunks) == (1 if media == JSON else 3)
    assert all(each.startswith(begins if number == 0 else begins[:6]) for number, each in enumerate(chunks))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("options", "asked", "wanted"),
    [
        ({}, [(STREAM, EVENTS), (SILENT, JSON), (STREAM, ""), (b"{", "")], [EVENTS, JSON, LINES, JSON]),
        ({}, [(SILENT, EVENTS), (WHOLE, LINES)], [EVENTS, JSON]),
        ({"output_formatter": "jsonlines"}, [(SILENT, ""), (SILENT, ""), (WHOLE, "")], [LINES, LINES, JSON]),
        ({"enable_streaming": "true"}, [(SILENT, ""), (SILENT, EVENTS)], [LINES, EVENTS]),
    ],
)
def test_a_batch_has_for_each_what_it_would_have_alone(
    load_model: LoadModel, letters: str, options: dict[str, str], asked: list[tuple[bytes, str]], wanted: list[str]
) -> None:
    """A stream goes out whole, in its form; the next batch is a batch again."""
    handler = load_model(entryPoint="djl_python.huggingface", model_id=letters, **options)
    requests = [Request(body, {"Content-Type": JSON, "Accept": accept}) for body, accept in asked]
    replies = handler.call(requests)
    assert [reply.headers["Content-Type"] for reply in replies] == wanted
    alone = [handler.call([request])[0] for request in requests]
    bodies = [bytes(one.body) if one.chunks is None else b"".join(one.chunks) for one in alone]
    assert [(reply.chunks, reply.status, bytes(reply.body)) for reply in replies] == [
        (None, one.status, body) for one, body in zip(alone, bodies, strict=True)
    ]
    made: Any = handler
    assert made._takes_batches


@pytest.mark.torch
@pytest.mark.parametrize("body", [WHOLE, b'{"inputs": "hello"}'])
def test_a_whole_answer_is_json_for_who_would_take_events(
    load_model: LoadModel, folder: Path, letters: str, body: bytes
) -> None:
    """Because the body says so, or the model makes no tokens."""
    handler = load_model(entryPoint="djl_python.huggingface", model_id=letters if body == WHOLE else str(folder))
    reply = ask(handler, body, Content_Type=JSON, Accept=EVENTS)
    assert (reply.status, reply.headers["Content-Type"]) == (200, JSON)


@pytest.mark.torch
def test_a_stream_that_cannot_be_had_is_no_error_of_its_neighbours(load_model: LoadModel, folder: Path) -> None:
    """A model without tokens is asked in a batch."""
    handler = load_model(entryPoint="djl_python.huggingface", model_id=str(folder))
    bodies = (b'{"inputs": "hello"}', b'{"inputs": "hello", "stream": true}')
    replies = handler.call([Request(body, {"Content-Type": JSON}) for body in bodies])
    assert [reply.status for reply in replies] == [200, 424]


@pytest.mark.torch
def test_a_seed_gives_the_same_text_again(load_model: LoadModel, letters: str) -> None:
    """Streamed and whole."""
    handler = load_model(entryPoint="djl_python.huggingface", model_id=letters)
    body = {"inputs": "hello", "parameters": {"max_new_tokens": 9, "do_sample": True, "seed": 3}}
    (whole,) = json.loads(bytes(ask(handler, json.dumps(body).encode(), Content_Type=JSON).body))
    streamed = ask(handler, json.dumps({**body, "stream": True}).encode(), Content_Type=JSON)
    last = json.loads([*(streamed.chunks or ())][-1])
    assert "hello" + last["generated_text"] == whole["generated_text"]


@pytest.mark.torch
def test_a_model_without_tokens_has_no_stream(
    load_model: LoadModel, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Asked for it is an error; by an option it does nothing, and an unknown one is told."""
    handler = load_model(
        entryPoint="djl_python.huggingface", model_id=str(folder), enable_streaming="true", output_formatter="neat"
    )
    assert "output_formatter = neat has no effect: json, jsonlines, sse are known" in capfd.readouterr().err
    assert ask(handler, b'{"inputs": "hello"}', Content_Type=JSON).status == 200
    reply = ask(handler, b'{"inputs": "hello", "stream": true}', Content_Type=JSON)
    assert (reply.status, b"makes no tokens" in bytes(reply.body)) == (424, True)
