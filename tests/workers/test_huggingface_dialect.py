"""The Hugging Face dialect: tiny folders answer as the inference toolkit's users know it, offline."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import huggingface, huggingface_bodies
from serving.workers.handler import Handler, HandlerError, Launch, Request
from tests.workers.huggingface_folders import save

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")
pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[2]
Load = Callable[..., Handler]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Load a tiny model by its architecture; each folder and each handler is made once."""
    folder, made = tmp_path_factory.mktemp("hf"), dict[Any, Handler]()

    def loaded(architecture: str, *, tokenizer: bool = True, **options: str) -> Handler:
        key = (architecture, tokenizer, *options.items())
        if key not in made:
            place = folder / (architecture if tokenizer else architecture + "-bare")
            place = place if place.exists() else save(folder, architecture, tokenizer=tokenizer)
            made[key] = huggingface.load(Launch("m", "huggingface", str(place), "config.json", options))
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM"):
            patch.setenv(name, "1")  # set back at the end, whatever the dialect makes of them
        yield loaded


def ask(handler: Handler, document: Any, **headers: str) -> Any:
    """Post a document as JSON, or bytes as they are; return the decoded answer."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    (reply,) = handler.call([Request(body, named)])
    assert reply.headers == {"Content-Type": "application/json"}
    return json.loads(bytes(reply.body))


def refused(handler: Handler, document: Any, **headers: str) -> tuple[int, str]:
    """Return the status and the words of a refusal."""
    with pytest.raises(HandlerError) as refusal:
        ask(handler, document, **headers)
    return refusal.value.status, str(refusal.value)


# --- tasks


def test_a_classifier_answers_a_label_for_each_text(load: Load) -> None:
    """The shape that the toolkit answers: a list of labels with scores."""
    handler = load("BertForSequenceClassification")
    (alone,) = ask(handler, {"inputs": "hello world"})
    assert alone.keys() == {"label", "score"}
    assert ask(handler, {"inputs": ["hello world", "the house"]})[0]["label"] == alone["label"]


def test_parameters_reach_the_pipeline(load: Load) -> None:
    """top_k of all labels gives both of them, which sum to 1."""
    answer = ask(load("BertForSequenceClassification"), {"inputs": "hello", "parameters": {"top_k": None}})
    assert sorted(each["label"] for each in answer) == ["LABEL_0", "LABEL_1"]
    assert sum(each["score"] for each in answer) == pytest.approx(1)


def test_the_same_question_has_the_same_answer(load: Load) -> None:
    """Dropout is off."""
    handler = load("BertForSequenceClassification")
    assert ask(handler, {"inputs": "hello"}) == ask(handler, {"inputs": "hello"})


def test_token_classification_answers_entities_with_plain_numbers(load: Load) -> None:
    """Their scores are numpy's in the pipeline, and numbers on the wire."""
    found = ask(load("BertForTokenClassification"), {"inputs": "hello world"})
    assert [each["word"] for each in found] == ["hello", "world"]
    assert all(isinstance(each["score"], float) for each in found)


def test_fill_mask_answers_the_likeliest_words(load: Load) -> None:
    """Five of them, best first."""
    found = ask(load("BertForMaskedLM"), {"inputs": "hello [MASK]"})
    scores = [each["score"] for each in found]
    assert len(found) == 5
    assert scores == sorted(scores, reverse=True)


def test_a_bare_model_answers_an_embedding_for_each_token(load: Load) -> None:
    """[1, tokens with CLS and SEP, hidden size]."""
    assert np.shape(ask(load("BertModel"), {"inputs": "hello world"})) == (1, 4, 16)


def test_text_generation_goes_on_from_the_text(load: Load) -> None:
    """The answer begins with the question, as return_full_text has it."""
    answer = ask(load("GPT2LMHeadModel"), {"inputs": "hello", "parameters": {"max_new_tokens": 3}})
    assert answer[0]["generated_text"].startswith("hello")


def test_zero_shot_classification_takes_labels_as_parameters(load: Load) -> None:
    """The task comes from the option; the model is a classifier."""
    handler = load("BertForSequenceClassification", task="zero-shot-classification")
    answer = ask(handler, {"inputs": "hello", "parameters": {"candidate_labels": ["red", "house"]}})
    assert sorted(answer["labels"]) == ["house", "red"]


def test_an_image_is_classified_raw_and_in_base64(load: Load) -> None:
    """Both bodies are the same image."""
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", (40, 40), "red").save(file, "PNG")
    handler, text = load("ViTForImageClassification"), base64.b64encode(file.getvalue()).decode()
    raw = ask(handler, file.getvalue(), Content_Type="image/png")
    assert {each["label"] for each in raw} == {"LABEL_0", "LABEL_1"}
    assert ask(handler, {"inputs": text}) == raw
    assert ask(handler, {"inputs": [f"data:image/png;base64,{text}"]}) == [raw]


# --- tasks that version 5 of transformers dropped


CONTEXT = "hello world it is in the red house"


def test_an_answer_is_a_piece_of_its_context(load: Load) -> None:
    """start and end count its characters."""
    answer = ask(load("BertForQuestionAnswering"), {"inputs": {"question": "where is it", "context": CONTEXT}})
    assert answer.keys() == {"score", "start", "end", "answer"}
    assert answer["answer"] == CONTEXT[answer["start"] : answer["end"]] != ""
    assert 0 < answer["score"] <= 1


def test_a_long_context_is_read_in_windows(load: Load) -> None:
    """600 words and a model of 64 tokens: five different answers, best first, from anywhere."""
    body = {"question": "where", "context": "hello world house " * 200}
    answers = ask(load("BertForQuestionAnswering"), {"inputs": body, "parameters": {"top_k": 5, "max_answer_len": 2}})
    assert len({(each["start"], each["end"]) for each in answers}) == 5
    assert [each["score"] for each in answers] == sorted((each["score"] for each in answers), reverse=True)
    assert all(len(each["answer"].split()) <= 2 for each in answers)


def test_questions_come_without_inputs_in_lists_and_as_csv(load: Load) -> None:
    """All forms that clients of the toolkit send."""
    handler, asked = load("BertForQuestionAnswering"), {"question": "where is it", "context": CONTEXT}
    answer = ask(handler, asked)
    assert ask(handler, {"inputs": [asked]}) == [answer]
    table = f"question,context\nwhere is it,{CONTEXT}\n".encode()
    assert ask(handler, table, Content_Type="text/csv") == [answer]


@pytest.mark.parametrize(("task", "key"), [
    ("text2text-generation", "generated_text"),
    ("summarization", "summary_text"),
    ("translation_en_to_de", "translation_text"),
])  # fmt: skip
def test_an_encoder_with_a_decoder_writes_a_text(load: Load, task: str, key: str) -> None:
    """The key is the task's, as in transformers 4; one object a text."""
    handler = load("T5ForConditionalGeneration", task=task)
    answer = ask(handler, {"inputs": ["hello world", "the"], "parameters": {"max_new_tokens": 4}})
    assert [list(each) for each in answer] == [[key], [key]]


# --- no tokenizer


def test_without_a_tokenizer_token_ids_give_logits(load: Load) -> None:
    """A flat list is one sample."""
    handler = load("BertForSequenceClassification", tokenizer=False)
    answer = ask(handler, {"inputs": {"input_ids": [[2, 5, 3], [2, 6, 3]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}})
    assert np.shape(answer["logits"]) == (2, 2)
    assert np.shape(ask(handler, {"inputs": {"input_ids": [2, 5, 3]}})["logits"]) == (1, 2)


def test_without_a_tokenizer_a_bare_model_gives_its_last_state(load: Load) -> None:
    """[batch, tokens, hidden size]."""
    answer = ask(load("BertModel", tokenizer=False), {"inputs": [[2, 5, 3]]})
    assert np.shape(answer["last_hidden_state"]) == (1, 3, 16)


def test_without_a_tokenizer_a_text_is_refused_with_what_is_wanted(load: Load) -> None:
    """So is a name that the model does not have."""
    handler = load("BertModel", tokenizer=False)
    for inputs in ("hello", {"pixels": [[1]]}, {}):
        status, words = refused(handler, {"inputs": inputs})
        assert status == 400
        assert '{"input_ids": [[...]]}' in words


# --- bodies


@pytest.mark.parametrize(("body", "words"), [
    (b'{"inputs": ', "not JSON"),
    (b"\xff", "not UTF-8 at byte 0"),
    (b"5", 'has int and wants {"inputs"'),
    (b'{"text": "hello"}', "has ['text'] and wants"),
    (b'{"inputs": "hello", "stream": true}', "'stream'"),
    (b'{"inputs": "hello", "parameters": 3}', "'parameters' is a int"),
    (b'{"inputs": 5}', "text-classification"),
])  # fmt: skip
def test_a_wrong_body_is_a_400_that_says_what_is_wanted(load: Load, body: bytes, words: str) -> None:
    """Never a 424: the model did nothing wrong."""
    status, said = refused(load("BertForSequenceClassification"), body)
    assert status == 400
    assert words in said


@pytest.mark.parametrize("parameters", [{"nonsense": 1}, {"max_new_tokens": "many"}])
def test_a_parameter_that_the_task_does_not_have_is_a_400(load: Load, parameters: Any) -> None:
    """In the words of transformers."""
    assert refused(load("GPT2LMHeadModel"), {"inputs": "hello", "parameters": parameters})[0] == 400


def test_a_text_without_its_mask_is_a_400(load: Load) -> None:
    """The pipeline's own exception has no status."""
    status, words = refused(load("BertForMaskedLM"), {"inputs": "hello"})
    assert status == 400
    assert "[MASK]" in words


def test_a_question_without_a_context_is_a_400(load: Load) -> None:
    """So is a parameter that the task does not have."""
    handler = load("BertForQuestionAnswering")
    assert "context" in refused(handler, {"inputs": {"question": "where"}})[1]
    body = {"inputs": {"question": "where", "context": CONTEXT}, "parameters": {"nonsense": 1}}
    assert "top_k" in refused(handler, body)[1]


def test_plain_text_csv_and_bare_strings_are_inputs(load: Load) -> None:
    """Four ways to say the same."""
    handler = load("BertForSequenceClassification")
    answer = ask(handler, {"inputs": "hello world", "options": {"wait_for_model": True}})
    assert ask(handler, b"hello world", Content_Type="text/plain; charset=utf-8") == answer
    assert ask(handler, b'inputs\n"hello world"\n', Content_Type="text/csv") == answer
    assert ask(handler, "hello world") == answer


@pytest.mark.parametrize("body", [b"", b"inputs\n", b"question,context\nwhere\n"])
def test_a_csv_without_rows_or_cells_is_a_400(load: Load, body: bytes) -> None:
    """The header line is asked for."""
    status, words = refused(load("BertForQuestionAnswering"), body, Content_Type="text/csv")
    assert status == 400
    assert "header" in words


def test_an_unknown_type_is_a_415_and_an_unknown_accept_a_406(load: Load) -> None:
    """Both say what would do."""
    handler = load("BertForSequenceClassification")
    for media in ("application/xml", "image/png"):
        assert refused(handler, b"x", Content_Type=media)[0] == 415
    assert refused(handler, {"inputs": "hello"}, Accept="text/csv")[0] == 406
    assert ask(handler, {"inputs": "hello"}, Accept="text/html, */*;q=0.1")


@pytest.mark.parametrize("inputs", ["http://127.0.0.1:9/cat.png", "file:///etc/hostname", "/etc/hostname", 5, {"a": 1}])
def test_an_image_is_never_fetched(load: Load, inputs: Any) -> None:
    """An address or a path is a 400 before transformers sees it."""
    status, words = refused(load("ViTForImageClassification"), {"inputs": inputs})
    assert status == 400
    assert "base64" in words or "does not open" in words


def test_bytes_that_are_no_image_are_a_400(load: Load) -> None:
    """Whatever their type says."""
    assert refused(load("ViTForImageClassification"), b"nonsense", Content_Type="image/png")[0] == 400


def test_nan_is_null_and_arrays_are_lists() -> None:
    """JSON has neither; images become base64 of a PNG."""
    answer = {"score": np.float32(math.nan), "array": np.arange(2), "deep": [math.inf, "ü"]}
    assert json.loads(huggingface_bodies.write(answer)) == {"score": None, "array": [0, 1], "deep": [None, "ü"]}
    image = pytest.importorskip("PIL.Image").new("L", (2, 2))
    assert base64.b64decode(json.loads(huggingface_bodies.write([image]))[0]).startswith(b"\x89PNG")
    with pytest.raises(TypeError, match="holds a object"):
        huggingface_bodies.write(object())


# --- loading


def read_task(tmp_path: Path, config: Any, **launch: Any) -> str:
    """Return the task that a configuration means."""
    return huggingface._task(Launch("m", "huggingface", str(tmp_path), **launch), config)


@pytest.mark.parametrize(("architecture", "task"), [
    ("DistilBertForSequenceClassification", "text-classification"), ("LlamaForCausalLM", "text-generation"),
    ("GPT2LMHeadModel", "text-generation"), ("BartForConditionalGeneration", "text2text-generation"),
    ("MarianMTModel", "text2text-generation"), ("ViTForImageClassification", "image-classification"),
    ("RobertaForMaskedLM", "fill-mask"), ("TapasForQuestionAnswering", "table-question-answering"),
    ("WhisperForConditionalGeneration", "automatic-speech-recognition"), ("MPNetModel", "feature-extraction"),
])  # fmt: skip
def test_the_architecture_tells_the_task(tmp_path: Path, architecture: str, task: str) -> None:
    """As the toolkit reads it from config.json."""
    assert read_task(tmp_path, {"architectures": [architecture]}) == task


def test_the_option_goes_before_hf_task_and_that_before_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model's own environment goes before the worker's; aliases are known."""
    config = {"architectures": ["BertForMaskedLM"]}
    monkeypatch.setenv("HF_TASK", "text-classification")
    assert read_task(tmp_path, config) == "text-classification"
    assert read_task(tmp_path, config, environ={"HF_TASK": "ner"}) == "token-classification"
    assert read_task(tmp_path, config, environ={"HF_TASK": "ner"}, options={"task": "fill-mask"}) == "fill-mask"


def test_a_model_that_summarizes_alone_is_for_summaries(tmp_path: Path) -> None:
    """BART fine-tuned on news says so in its configuration; T5 says several things."""
    config = {"architectures": ["BartForConditionalGeneration"], "task_specific_params": {"summarization": {}}}
    assert read_task(tmp_path, config) == "summarization"


@pytest.mark.parametrize("config", [
    {"architectures": ["BertForPreTraining"]},
    {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}},
    {"architectures": ["VisionEncoderDecoderModel"]},
])  # fmt: skip
def test_an_unknown_architecture_asks_for_the_task(tmp_path: Path, config: Any) -> None:
    """The error lists what there is."""
    with pytest.raises(HandlerError, match="set the option task or HF_TASK to one of audio-classification"):
        read_task(tmp_path, config)


@pytest.mark.parametrize(("content", "words"), [(None, "no config.json"), ("{", "is not JSON"), ("[]", "is a list")])
def test_a_broken_configuration_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    """Before anything heavy is imported."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(HandlerError, match=words):
        huggingface.load(Launch("m", "huggingface", str(tmp_path)))


def test_a_missing_transformers_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where to name it."""
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    monkeypatch.setitem(sys.modules, "transformers.utils", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(HandlerError, match=r"pip package transformers.*WHARF_INSTALL_REQUIREMENTS=1"):
        huggingface.load(Launch("m", "huggingface", str(tmp_path)))


@pytest.mark.parametrize("trusted", ["false", "true"])
def test_code_in_the_folder_runs_only_when_it_is_trusted(tmp_path: Path, trusted: str) -> None:
    """Without the option its module is not imported and the log says how to trust it."""
    place = save(tmp_path, "BertModel", tokenizer=False)
    config = json.loads((place / "config.json").read_text()) | {"auto_map": {"AutoModel": "own.Own"}}
    (place / "config.json").write_text(json.dumps(config))
    (place / "own.py").write_text(
        "from transformers import BertModel\nprint('own code ran')\nclass Own(BertModel): pass\n"
    )
    program = (
        "from serving.workers.dialects import huggingface\nfrom serving.workers.handler import Launch\n"
        f"huggingface.load(Launch('m', 'huggingface', {str(place)!r}, options={{'trust_remote_code': '{trusted}'}}))"
    )
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert ("own code ran" in done.stdout) is (trusted == "true")
    assert ("which is not run: set the option trust_remote_code" in done.stderr) is (trusted == "false")


def test_the_libraries_are_told_to_stay_offline(load: Load) -> None:
    """Also the one that was imported before."""
    load("BertModel")
    from huggingface_hub import constants

    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE is True
