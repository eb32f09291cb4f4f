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
