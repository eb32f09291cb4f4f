"""Tokens as they are made, by the Hugging Face dialect: who asks for them, how they are written, that they are all."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.workers.dialects import huggingface, huggingface_tokens
from serving.workers.dialects.huggingface_tokens import Generator
from serving.workers.handler import Handler, HandlerError, Launch, Reply, Request
from tests.workers.causal_folders import save_causal
from tests.workers.huggingface_folders import save
from tests.workers.spellings import fallback_tokenizer, save_bytes
from tests.workers.takers import taking

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")

LINES, EVENTS = "application/jsonlines", "text/event-stream"
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of models, and an environment that is set back."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM"):
            patch.setenv(name, "1")
        yield tmp_path_factory.mktemp("streams")


def load(place: Path) -> Handler:
    return huggingface.load(Launch("m", "huggingface", str(place)))


@pytest.fixture(scope="module")
def words(folder: Path) -> Handler:
    """A Llama that speaks in words."""
    return load(save_causal(folder, "llama"))


@pytest.fixture(scope="module")
def letters(folder: Path) -> Handler:
    """A Llama that speaks in bytes."""
    return load(save_bytes(folder))


def call(handler: Handler, document: Any, accept: str = "*/*") -> Reply:
    (reply,) = handler.call([Request(json.dumps(document).encode(), {"Accept": accept})])
    return reply


def lines(handler: Handler, inputs: Any, accept: str = LINES, **parameters: Any) -> list[Any]:
    """Return the documents of a stream, of lines or of events, pushed as the worker has it."""
    chunks: Any = call(handler, {"inputs": inputs, "parameters": parameters}, accept).chunks
    found: list[bytes] = []
    chunks.push(taking(found))
    return [json.loads(chunk.removeprefix(b"data:")) for chunk in found]


def refused(handler: Handler, document: Any, accept: str = "*/*") -> tuple[int, str]:
    with pytest.raises(HandlerError) as refusal:
        call(handler, document, accept).whole()
    return refusal.value.status, str(refusal.value)


# ---- who asks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "accept", "wanted"),
    [
        ({"stream": True}, "*/*", LINES),
        ({"stream": True}, "", LINES),
        ({"stream": True}, "application/json", LINES),
        ({"stream": True}, EVENTS, EVENTS),
        ({"parameters": {"stream": True, **GREEDY}}, "*/*", LINES),
        ({}, EVENTS, EVENTS),
        ({}, f"{EVENTS}; charset=utf-8, */*", EVENTS),
        ({}, "Application/JSONLines", LINES),
        ({}, f"application/json, {EVENTS}", "application/json"),
        ({"stream": False}, f"{EVENTS}, */*", "application/json"),
        ({"stream": False}, "*/*", "application/json"),
        ({}, "*/*", "application/json"),
    ],
)
def test_a_stream_is_asked_for_in_the_body_or_by_accept(
    words: Handler, extra: dict[str, Any], accept: str, wanted: str
) -> None:
    """LMI's and TGI's ways; what is written is told in the answer."""
    reply = call(words, {"inputs": "hello", "parameters": GREEDY, **extra}, accept)
    assert reply.headers["Content-Type"] == wanted
    assert (reply.chunks is None) is (wanted == "application/json")
    for _ in reply.chunks or ():
        pass


@pytest.mark.parametrize(
    ("extra", "accept", "status", "said"),
    [
        ({"stream": "yes"}, "*/*", 400, "'stream' is 'yes' and wants true or false"),
        ({"stream": True}, "text/csv", 406, "Accept 'text/csv' is not written here"),
        ({"stream": False}, EVENTS, 406, "is not written here"),
        ({"stream": True, "inputs": ["a", "b"]}, "*/*", 400, "a stream is of one text, and inputs has 2"),
        ({"stream": True, "parameters": {"nonsense": 1}}, "*/*", 400, "nonsense"),
        ({"stream": True, "parameters": {"seed": -1}}, "*/*", 400, "seed is -1"),
        ({"stream": True, "parameters": {"num_beams": 2}}, "*/*", 400, "one text: num_beams and num_return_sequences"),
    ],
)
def test_what_cannot_be_streamed_is_refused_before_anything_is_sent(
    words: Handler, extra: dict[str, Any], accept: str, status: int, said: str
) -> None:
    """As a whole answer would be, with the status."""
    found, text = refused(words, {"inputs": "hello", **extra}, accept)
    assert (found, said in text) == (status, True), text


def test_a_task_without_tokens_has_no_stream(folder: Path) -> None:
    """Asked in the body it is 400, by Accept 406; a model without a tokenizer makes none either."""
    handlers = [load(save(folder, "BertForSequenceClassification")), load(save_causal(folder, "opt", tokenizer=False))]
    for handler in handlers:
        status, text = refused(handler, {"inputs": "hello", "stream": True})
        assert (status, "makes no tokens here" in text) == (400, True)
        assert refused(handler, {"inputs": "hello"}, EVENTS)[0] == 406
    assert call(handlers[0], {"inputs": "hello", "stream": False}).chunks is None


# ---- what is written -------------------------------------------------------------------------------------------------


def test_lines_are_lmis(words: Handler) -> None:
    """A token each; the last has the text and how it ended."""
    *first, last = lines(words, "hello world", max_new_tokens=3, do_sample=False)
    assert [each.keys() for each in first] == [{"token"}] * 2
    assert first[0]["token"].keys() == {"id", "text", "log_prob"}
    assert first[0]["token"]["log_prob"] < 0
    text = "".join(each["token"]["text"] for each in (*first, last))
    assert (
        last.items()
        >= {
            "generated_text": text,
            "details": {"finish_reason": "length", "generated_tokens": 3, "inputs": "hello world"},
        }.items()
    )


def test_events_are_tgis(words: Handler) -> None:
    """A `data:` and an empty line each; null where there is nothing yet."""
    reply = call(words, {"inputs": "hello", "parameters": {"max_new_tokens": 2, "do_sample": False}}, EVENTS)
    raw = b"".join(reply.chunks or ())
    assert reply.headers == {"Content-Type": EVENTS, "X-Accel-Buffering": "no"}
    assert raw.startswith(b'data:{"index": 1, "token": {"id": ')
    first, last = (json.loads(each.removeprefix("data:")) for each in raw.decode().strip().split("\n\n"))
    assert first.keys() == last.keys() == {"index", "token", "generated_text", "details"}
    assert first["token"].keys() == {"id", "text", "logprob", "special"}
    assert (first["generated_text"], first["details"]) == (None, None)
    assert last["details"] == {"finish_reason": "length", "generated_tokens": 2, "input_length": 3, "seed": None}


def test_the_log_probability_is_the_models(words: Handler) -> None:
    """Of a token after those before it, whatever is made of the scores later."""
    import torch

    made: Any = words
    found = lines(words, "hello world", max_new_tokens=6, do_sample=True, temperature=0.2, seed=4)
    tokenizer, model = made.run.tokenizer, made.run.model
    ids = tokenizer("hello world")["input_ids"] + [each["token"]["id"] for each in found]
    with torch.inference_mode():
        scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    start = len(ids) - len(found)
    wanted = [float(scores[start + number - 1, ids[start + number]]) for number in range(len(found))]
    assert [each["token"]["log_prob"] for each in found] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 60, "do_sample": False},
        {"max_new_tokens": 60, "do_sample": True, "seed": 7, "top_k": 5},
        {"max_new_tokens": 60, "do_sample": True, "seed": 8, "temperature": 2.0, "repetition_penalty": 1.5},
        {"max_new_tokens": 30, "min_new_tokens": 30, "do_sample": False},
        {"max_new_tokens": 30, "prompt_lookup_num_tokens": 3, "do_sample": False},
        {"max_new_tokens": 1, "do_sample": False},
        {"max_new_tokens": 20, "do_sample": True, "seed": 1, "skip_special_tokens": False},
    ],
)
@pytest.mark.parametrize("inputs", ["hello world", "where is the red house", ["hello"]])
def test_the_texts_together_are_the_generated_part_of_the_whole_answer(
    words: Handler, letters: Handler, parameters: dict[str, Any], inputs: Any
) -> None:
    """Greedy, sampled, with limits, with speculation; in words, and in bytes of which few are characters."""
    for handler in (words, letters):
        found = lines(handler, inputs, **parameters)
        text = "".join(each["token"]["text"] for each in found)
        whole = call(handler, {"inputs": inputs, "parameters": {**parameters, "return_full_text": False}})
        answer = json.loads(bytes(whole.body))
        while isinstance(answer, list):
            (answer,) = answer
        assert text == found[-1]["generated_text"] == answer["generated_text"]
        assert all("generated_text" not in each for each in found[:-1])


def test_the_whole_text_is_told_to_who_asks_for_it(words: Handler) -> None:
    """return_full_text; the pieces are those of the generated part all the same."""
    found = lines(words, "hello", return_full_text=True, **GREEDY)
    assert found[-1]["generated_text"] == "hello" + "".join(each["token"]["text"] for each in found)


def test_how_it_ended_is_told(letters: Handler) -> None:
    """At the limit, at the model's end, at a text that was to end it."""
    some = lines(letters, "hello", max_new_tokens=30, do_sample=False)
    assert some[-1]["details"]["finish_reason"] == "length"
    token = some[4]["token"]["id"]
    ended = lines(letters, "hello", max_new_tokens=30, do_sample=False, eos_token_id=token)
    assert ended[-1]["details"]["finish_reason"] == "eos_token"
    assert ended[-1]["token"]["id"] == token
    stop = next(each["token"]["text"] for each in some if each["token"]["text"].isalnum())
    stopped = lines(letters, "hello", max_new_tokens=30, do_sample=False, stop_sequence=stop)
    assert stopped[-1]["details"]["finish_reason"] == "stop_sequence"
    assert stopped[-1]["generated_text"].endswith(stop)


def test_a_chat_is_one_text(letters: Handler) -> None:
    """By the tokenizer's template."""
    made: Any = letters
    made.run.tokenizer.chat_template = "{% for each in messages %}{{ each['content'] }}{% endfor %}"
    found = lines(letters, [{"role": "user", "content": "hello"}], **GREEDY)
    assert found[-1]["details"]["inputs"] == [{"role": "user", "content": "hello"}]
    assert [each["token"]["id"] for each in found] == [
        each["token"]["id"] for each in lines(letters, "hello", **GREEDY)
    ]


def test_text_to_text_streams(folder: Path) -> None:
    """A model with an encoder: what its decoder makes."""
    handler = load(save(folder, "T5ForConditionalGeneration"))
    found = lines(handler, "hello world", **GREEDY)
    whole = call(handler, {"inputs": "hello world", "parameters": GREEDY})
    assert "".join(each["token"]["text"] for each in found) == json.loads(bytes(whole.body))[0]["generated_text"]
    assert found[-1]["details"]["generated_tokens"] == len(found)


def test_what_is_held_back_at_the_end_is_told_although_a_broken_byte_spoiled_the_text() -> None:
    """A tokenizer that falls back to bytes then makes signs of good ones that were told before."""
    import torch

    tokenizer = fallback_tokenizer()
    hello = tokenizer.convert_tokens_to_ids("▁hello")
    ids = [2 + ord("A"), 2 + 0xC3, hello, 2 + 0xE6]
    model: Any = torch.nn.Identity()
    model.generation_config = SimpleNamespace(eos_token_id=1)

    def run(_: Any, parameters: dict[str, Any]) -> Any:
        parameters["streamer"].put(torch.tensor([[hello]]))
        for token in ids:
            model(token)
            parameters["streamer"].put(torch.tensor([token]))
        return [{"generated_text": tokenizer.decode(ids)}]

    tokens: list[Any] = []
    huggingface_tokens.stream(Generator("text2text-generation", run, model, tokenizer), "hello", {})(tokens.append)
    last = tokens[-1]
    assert (last.text, last.ending and last.ending.text) == ("\ufffd", "\ufffd\ufffd hello\ufffd")


# ---- when it stops ---------------------------------------------------------------------------------------------------


def test_a_token_is_made_when_it_is_asked_for_and_none_after_the_reader_left(words: Handler) -> None:
    """One run of the model a token; the handler answers on."""
    made: Any = words
    runs: list[int] = []
    hook = made.run.model.register_forward_hook(lambda *_: runs.append(1))
    reply = call(words, {"inputs": "hello", "parameters": {"do_sample": False, "max_new_tokens": 50}}, LINES)
    chunks: Any = reply.chunks
    assert not runs  # who answers decides when
    for number in range(1, 5):
        next(chunks)
        assert len(runs) == number
    chunks.close()
    assert len(runs) == 4
    assert list(chunks) == []
    hook.remove()
    assert lines(words, "hello", **GREEDY)


def test_what_is_pushed_is_what_is_read_and_ends_where_nobody_wants_more(words: Handler) -> None:
    """Without a thread, with no run of the model after the last chunk that was taken."""
    made: Any = words
    document = {"inputs": "hello", "parameters": {"do_sample": True, "seed": 7, "max_new_tokens": 12}}
    all_read = list(call(words, document, LINES).chunks or ())
    threads: set[int] = set()
    runs: list[int] = []

    def note(*_: Any) -> None:
        runs.append(1)
        threads.add(threading.get_ident())

    hook = made.run.model.register_forward_hook(note)
    taken: list[bytes] = []
    chunks: Any = call(words, document, LINES).chunks
    chunks.push(taking(taken, 5))
    hook.remove()
    assert taken == all_read[:5]
    assert (len(runs), threads) == (5, {threading.get_ident()})


@pytest.mark.parametrize(("at", "raised"), [(1, HandlerError), (3, ValueError)])
def test_a_push_explains_what_fails_before_the_first_token(words: Handler, at: int, raised: type[Exception]) -> None:
    """That is the request's failure; a later one is the stream's."""
    made: Any = words
    runs: list[int] = []

    def fail(*_: Any) -> None:
        runs.append(1)
        if len(runs) == at:
            raise ValueError("torn")

    hook = made.run.model.register_forward_hook(fail)
    chunks: Any = call(words, {"inputs": "hello", "parameters": GREEDY}, LINES).chunks
    taken: list[bytes] = []
    with pytest.raises(raised, match="torn"):
        chunks.push(taking(taken))
    hook.remove()
    assert len(taken) == at - 1


def whole(reply: Reply) -> None:
    reply.whole()


def read(reply: Reply) -> None:
    assert list(reply.chunks or ())


def pushed(reply: Reply) -> None:
    chunks: Any = reply.chunks
    chunks.push(taking([]))


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Memory comes back when the last one lets go of it, or not at all."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("fault", [ValueError, MemoryError])
@pytest.mark.parametrize(("accept", "ask"), [("*/*", whole), (LINES, read), (LINES, pushed)])
@pytest.mark.usefixtures("no_collections")
def test_what_a_failed_run_held_is_free_with_its_exception(
    words: Handler, fault: type[Exception], accept: str, ask: Callable[[Reply], None]
) -> None:
    """Gigabytes, it may be; an idle worker makes no collection."""
    made: Any = words
    held: list[weakref.ref[Any]] = []

    def fail(*_: Any) -> None:
        activations: set[int] = set()
        held.append(weakref.ref(activations))
        raise fault("torn")

    hook = made.run.model.register_forward_hook(fail)
    with suppress(HandlerError, MemoryError):
        ask(call(words, {"inputs": "hello", "parameters": GREEDY}, accept))
    hook.remove()
    assert [each() for each in held] == [None]


@pytest.mark.parametrize("ask", [read, pushed])
@pytest.mark.usefixtures("no_collections")
def test_a_stream_leaves_nothing_for_a_collection(words: Handler, ask: Callable[[Reply], None]) -> None:
    """Neither the run nor who read it."""
    reply = call(words, {"inputs": "hello", "parameters": GREEDY}, LINES)
    ask(reply)
    lines = weakref.ref(reply.chunks)
    reply.chunks = None
    assert lines() is None


def test_an_error_in_the_midst_is_raised_there(words: Handler) -> None:
    """What was made before it was sent; it is no 400 any more."""
    made: Any = words
    runs: list[int] = []

    def fail(*_: Any) -> None:
        runs.append(1)
        if len(runs) == 3:
            raise ValueError("torn")

    hook = made.run.model.register_forward_hook(fail)
    chunks: Any = call(words, {"inputs": "hello", "parameters": GREEDY}, LINES).chunks
    assert len([next(chunks), next(chunks)]) == 2
    with pytest.raises(ValueError, match="torn"):
        next(chunks)
    hook.remove()


def test_streams_of_a_batch_are_made_one_after_the_other(words: Handler) -> None:
    """Whole, each from its own seed, as if it were alone."""
    document = {"inputs": "hello", "stream": True, "parameters": {"max_new_tokens": 12, "do_sample": True, "seed": 7}}
    request = Request(json.dumps(document).encode())
    (alone,) = words.call([request])
    wanted = b"".join(alone.chunks or ())
    replies = words.call([request, request])
    assert [(reply.chunks, bytes(reply.body), reply.headers) for reply in replies] == [
        (None, wanted, alone.headers)
    ] * 2


def test_a_bad_request_of_a_batch_leaves_no_stream_behind(words: Handler) -> None:
    """Neither a thread nor a hook of the model."""
    made: Any = words
    before = threading.active_count(), len(made.run.model._forward_pre_hooks)
    good = Request(json.dumps({"inputs": "hello", "stream": True, "parameters": GREEDY}).encode())
    kept: list[Any] = []
    try:
        words.call([good, Request(b"nope")])
    except HandlerError as fault:
        kept.append(fault)  # and with it all that it passed
    assert len(kept) == 1
    assert (threading.active_count(), len(made.run.model._forward_pre_hooks)) == before
