"""What the toolkit's functions see of a request, and what becomes of their result: context, reply, stream."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from serving.workers.handler import HandlerError, Reply
from tests.workers.people import answer, ask, loaded, script

JSON = "application/json"

MODEL = "def model_fn(model_dir):\n    return 'model'\n"

ECHO = MODEL + "def transform_fn(model, body, content_type, accept):\n    return accept\n"


@pytest.mark.parametrize(
    ("accept", "seen"),
    [("", "text/csv"), ("*/*", "text/csv"), ("image/png", "image/png"), ("a/b, */*;q=0.1", "a/b, */*;q=0.1")],
)
def test_no_accept_and_any_accept_are_the_default_one(tmp_path: Path, accept: str, seen: str) -> None:
    """Any other arrives as it is, and is the answer's Content-Type."""
    with loaded(script(tmp_path, ECHO, default_accept="text/csv")) as handler:
        reply = ask(handler, b"", accept=accept)
    assert bytes(reply.body).decode().endswith(seen)
    assert reply.headers == {"Content-Type": seen}


def _reply(tmp_path: Path, result: str, context: str = "pass") -> Reply:
    source = f"{MODEL}def transform_fn(m, b, c, accept, context):\n    {context}\n    return {result}\n"
    with loaded(script(tmp_path, source)) as handler:
        return ask(handler, b"", accept="text/x")


@pytest.mark.parametrize(
    ("result", "body", "content_type"),
    [
        ("'é'", "é".encode(), "text/x"),
        ("b'\\xff'", b"\xff", "text/x"),
        ("bytearray(b'ab')", b"ab", "text/x"),
        ("memoryview(b'ab')", b"ab", "text/x"),
        ("('a', 'text/y')", b"a", "text/y"),
        ("(b'a', accept)", b"a", "text/x"),
        ("{'a': [1]}", b'{"a": [1]}', JSON),
        ("[1.5, None]", b"[1.5, null]", JSON),
        ("({'a': 1}, 'application/vnd.a+json')", b'{"a": 1}', "application/vnd.a+json"),
        ("__import__('numpy').arange(3)", b"[0, 1, 2]", JSON),
        ("{'p': __import__('numpy').float32(0.5)}", b'{"p": 0.5}', JSON),
    ],
)
def test_a_result_becomes_a_body_with_its_type(tmp_path: Path, result: str, body: bytes, content_type: str) -> None:
    """Bytes and text as they are, a pair brings its own type, objects and arrays are written as JSON."""
    reply = _reply(tmp_path, result)
    assert (bytes(reply.body), reply.headers["Content-Type"], reply.status) == (body, content_type, 200)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("object()", "returned a object and it cannot be written"),
        ("(1, 2, 3)", "returned a tuple of \\(int, int, int\\)"),
        ("('a', 2)", "return the body, or \\(body, content type\\)"),
        ("iter([3])", "yielded a int: yield bytes or str"),
    ],
)
def test_a_result_that_cannot_be_sent_says_what_to_return(tmp_path: Path, result: str, said: str) -> None:
    """The handler's fault, by its type."""
    with pytest.raises(HandlerError, match=said) as caught:
        reply = _reply(tmp_path, result)
        list(reply.chunks or ())
    assert caught.value.status == 424


STREAM = """
log = []
def model_fn(model_dir):
    return log
def transform_fn(model, body, content_type, accept, context):
    try:
        context.set_response_header(0, "X-Said", "first")
        for n in range(3):
            model.append(n)
            yield f"{n}," if n % 2 else f"{n},".encode()
            if body == b"fail":
                raise KeyError("late")
    finally:
        model.append("closed")
"""


def test_a_generator_is_streamed_as_it_yields(tmp_path: Path) -> None:
    """Its first piece is made at once, each other when it is asked for; text and bytes mix."""
    with loaded(script(tmp_path, STREAM)) as handler:
        reply = ask(handler, b"", accept="text/plain")
        log = sys.modules["inference"].log
        assert (reply.chunks is not None, log) == (True, [0])
        assert reply.headers == {"Content-Type": "text/plain", "X-Said": "first"}
        assert list(reply.chunks or ()) == [b"0,", b"1,", b"2,"]
        assert log == [0, 1, 2, "closed"]


def test_a_stream_that_is_closed_ends_its_generator(tmp_path: Path) -> None:
    """A client that leaves stops the work, even before it read anything."""
    with loaded(script(tmp_path, STREAM)) as handler:
        chunks = ask(handler).chunks
        chunks.close()  # type: ignore[union-attr]
        assert sys.modules["inference"].log == [0, "closed"]


def test_an_error_after_the_first_piece_comes_through_the_stream(tmp_path: Path) -> None:
    """Whoever reads the chunks gets it."""
    with loaded(script(tmp_path, STREAM)) as handler:
        chunks = ask(handler, b"fail").chunks
        assert chunks is not None
        assert next(chunks) == b"0,"
        with pytest.raises(KeyError, match="late"):
            next(chunks)


def test_an_error_before_the_first_piece_is_an_error_of_the_call(tmp_path: Path) -> None:
    """Nothing was sent yet, so that the client can be told."""
    with pytest.raises(ZeroDivisionError):
        _reply(tmp_path, "(1 / each for each in [0])")


@pytest.mark.parametrize("result", ["iter(())", "(iter([b'a', 'b']), 'text/y')", "map(str, [1, 2])"])
def test_any_iterator_is_a_stream(tmp_path: Path, result: str) -> None:
    """Empty ones, pairs with a type, and maps."""
    reply = _reply(tmp_path, result)
    assert reply.chunks is not None
    assert b"".join(reply.chunks) in (b"", b"ab", b"12")
    reply.chunks.close()  # type: ignore[attr-defined]  # of a map there is nothing to close
    assert reply.headers["Content-Type"] == ("text/y" if "text/y" in result else "text/x")


def test_a_prediction_that_streams_passes_the_default_output_fn(tmp_path: Path) -> None:
    """predict_fn alone may yield."""
    source = MODEL + "def predict_fn(data, model):\n    yield 'a'\n    yield b'b'\n"
    with loaded(script(tmp_path, source)) as handler:
        reply = ask(handler, "[1]", content_type=JSON)
        assert list(reply.chunks or ()) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("did", "status", "headers"),
    [
        ("context.set_response_status(201, 'Made')", 201, {"Content-Type": "text/x"}),
        ("context.set_response_status(code=418, phrase='no', idx=0)", 418, {"Content-Type": "text/x"}),
        ("context.set_all_response_status(202)", 202, {"Content-Type": "text/x"}),
        ("context.set_http_response_status(203)", 203, {"Content-Type": "text/x"}),
        ("context.set_response_content_type(0, 'text/z')", 200, {"Content-Type": "text/z"}),
        ("context.set_response_header(0, 'X-amzn-a', 1)", 200, {"Content-Type": "text/x", "X-Amzn-A": "1"}),
        ("context.request_processor[0].report_status(204)", 204, {"Content-Type": "text/x"}),
        (
            "context.request_processor[0].add_response_property('a', 'b')",
            200,
            {"Content-Type": "text/x", "A": "b"},
        ),
    ],
)
def test_the_context_sets_status_and_headers(tmp_path: Path, did: str, status: int, headers: dict[str, str]) -> None:
    """Every setter that the toolkit's model server has."""
    reply = _reply(tmp_path, "'x'", did)
    assert (reply.status, reply.headers) == (status, headers)


@pytest.mark.parametrize(
    ("read", "seen"),
    [
        ("context.get_request_header(0, 'X-Amzn-SageMaker-Custom-Attributes')", "a=1"),
        ("context.get_request_header(0, 'x-amzn-sagemaker-custom-attributes')", "a=1"),
        ("context.get_request_header(0, 'X-Amzn-Sagemaker-Target-Model')", "sub/a.tar.gz"),
        ("context.get_request_header(0, 'Absent')", None),
        ("context.get_all_request_header(0)['x-amzn-SageMaker-custom-attributes']", "a=1"),
        ("'x-amzn-sagemaker-custom-attributes' in context.get_all_request_header(0)", True),
        ("'absent' in context.get_all_request_header(0)", False),
        ("context.get_all_request_header(0).get('absent', 'none')", "none"),
        ("sorted(context.get_all_request_header(0))[-1]", "X-Amzn-SageMaker-Target-Model"),
        ("context.request_processor[0].get_request_property('content-type')", JSON),
        ("context.request_processor[0].get_request_properties().get('Content-type')", JSON),
        ("context.get_request_id(0)", "id-1"),
        ("context.request_ids", {"0": "id-1"}),
        ("context.model_name", "m"),
        ("context.manifest", {}),
        ("context.system_properties['gpu_id']", None),
        ("context.system_properties.get('batch_size')", 1),
        ("context.system_properties.get('server_name')", "Wharf"),
        ("context.get_response_status(0)", [200, ""]),
        ("context.get_response_headers(0)", {}),
        ("context.get_response_content_type(0)", None),
        ("context.request_processor[0].get_response_headers()", {}),
        ("context.request_processor[0].get_response_header('a')", None),
        ("context.request_processor[0].get_response_status_code()", 200),
        ("context.request_processor[0].get_response_status_phrase()", ""),
    ],
)
def test_the_context_tells_of_the_request(tmp_path: Path, read: str, seen: object) -> None:
    """Each getter, and headers by any spelling."""
    source = f"import json\n{MODEL}def transform_fn(m, b, c, a, context): return json.dumps({read})\n"
    headers = {
        "content_type": JSON,
        "x_amzn_sagemaker_custom_attributes": "a=1",
        "x_amzn_sagemaker_target_model": "sub/a.tar.gz",
        "x_amzn_sagemaker_inference_id": "id-1",
    }
    assert json.loads(answer(script(tmp_path, source), "{}", **headers)) == seen


@pytest.mark.parametrize(("device", "gpu"), [("cpu", None), ("cuda", 0), ("cuda:1", 1)])
def test_the_context_tells_the_folder_and_the_gpu_at_the_load(tmp_path: Path, device: str, gpu: int | None) -> None:
    """model_fn reads model_dir and gpu_id from it; there is no request yet, and no header."""
    source = """
    def model_fn(model_dir, context):
        known = context.system_properties
        assert context.get_request_header(0, "Accept") is None
        return [known.get("model_dir"), known.get("gpu_id")]
    def transform_fn(model, body, content_type, accept): return model
    """
    assert json.loads(answer(script(tmp_path, source, device=device))) == [str(tmp_path), gpu]


def test_the_context_is_one_object_for_life_and_forgets_each_request(tmp_path: Path) -> None:
    """What a function leaves on it stays; headers and status do not."""
    source = """
    def model_fn(model_dir, context): context.seen = 0
    def transform_fn(model, body, content_type, accept, context):
        context.seen += 1
        was = context.get_response_status(0)[0]
        context.set_response_status(500 + context.seen)
        return [context.seen, was, context.get_request_header(0, "X-A")]
    """
    with loaded(script(tmp_path, source)) as handler:
        first, second = ask(handler, b"", x_a="1"), ask(handler)
        assert (json.loads(bytes(first.body)), json.loads(bytes(second.body))) == ([1, 200, "1"], [2, 200, None])
        assert (first.status, second.status) == (501, 502)
