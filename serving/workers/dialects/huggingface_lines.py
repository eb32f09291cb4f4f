"""The body of a stream of tokens, and who asks for one: DJL's LMI and Text Generation Inference, as they write it.

- JSON lines (LMI): `{"token": {"id", "text", "log_prob"}}`; the last has `generated_text` and `details` besides.
- Server-sent events (TGI's generate_stream): `data:{"index", "token": {"id", "text", "logprob", "special"},
  "generated_text", "details"}`, the last two null but in the last.
- LMI's events: its lines after `data: `. LMI's older lines: `{"outputs": ["text"]}`.

Sources: docs.djl.ai, "LMI handlers Inference API Schema"; huggingface.co/docs, "TextGenerationStreamOutput". Knows no
model; `huggingface` and `djl_python.huggingface` call it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serving.workers.dialects import huggingface_bodies
from serving.workers.dialects.huggingface_tokens import Token
from serving.workers.dialects.stepwise import Function, Stepwise, push
from serving.workers.handler import HandlerError

_dumps = json.dumps  # people's code may replace it


@dataclass(frozen=True)
class Form:
    """How a stream is written: its media type, and a token's piece of the body."""

    media: str
    write: Callable[[Token], bytes]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of such an answer; the second asks a proxy (nginx) to pass each piece on as it comes."""
        return {"Content-Type": self.media, "X-Accel-Buffering": "no"}


class Lines:
    """The pieces of a body, one a token that `generate` hands out: to be read, or pushed; none is made before."""

    def __init__(self, generate: Function, form: Form) -> None:
        self._generate = generate
        self._write = form.write
        self._tokens = Stepwise(generate)
        self._first: bytes | None = None

    def begin(self) -> Lines:
        """Make the first piece, which is kept for who reads; raises what is wrong before anything is answered."""
        self._first = next(self, None)
        return self

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes:
        first, self._first = self._first, None
        return self._write(next(self._tokens)) if first is None else first

    def push(self, send: Callable[[bytes], bool]) -> None:
        """Make all of them here, in place of reading: `send` gets each, and says whether more are wanted."""
        push(self._generate, lambda token: send(self._write(token)))

    def close(self) -> None:
        """End the generation."""
        self._tokens.close()


def _json_line(token: Token) -> bytes:
    """Write LMI's line."""
    said: dict[str, Any] = {"token": {"id": token.id, "text": token.text, "log_prob": token.log_prob}}
    if token.is_special:
        said["token"]["special_token"] = True
    if (end := token.ending) is not None:
        details = {"finish_reason": end.reason, "generated_tokens": token.number, "inputs": end.inputs}
        said |= {"generated_text": end.text, "details": details}
    return _line(said)


def _lmi_event(token: Token) -> bytes:
    """Write LMI's line as an event."""
    return b"data: " + _json_line(token) + b"\n"


def _outputs_line(token: Token) -> bytes:
    """Write the line that LMI has for `option.enable_streaming`."""
    return _line({"outputs": [token.text]})


def _tgi_event(token: Token) -> bytes:
    """Write TGI's event."""
    said: dict[str, Any] = {"id": token.id, "text": token.text, "logprob": token.log_prob, "special": token.is_special}
    said = {"index": token.number, "token": said, "generated_text": None, "details": None}
    if (end := token.ending) is not None:
        said["generated_text"] = end.text
        said["details"] = {
            "finish_reason": end.reason,
            "generated_tokens": token.number,
            "input_length": end.input_tokens,
            "seed": None,
        }
    return b"data:" + _line(said) + b"\n"


def _line(said: dict[str, Any]) -> bytes:
    return _dumps(said, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


JSON_LINES = Form("application/jsonlines", _json_line)
EVENTS = Form("text/event-stream", _tgi_event)
_NAMED = {form.media: form for form in (JSON_LINES, EVENTS)}
# option.output_formatter's values that make a stream of every answer.
_FORMATTERS = {"jsonlines": JSON_LINES, "sse": Form(EVENTS.media, _lmi_event)}
_OUTPUTS = Form(JSON_LINES.media, _outputs_line)


def named(accept: str) -> Form | None:
    """Return the first form that an Accept names."""
    return next((_NAMED[each] for each in _medias(accept) if each in _NAMED), None)


def wanted(accept: str, wish: Any) -> Form | None:
    """Return the form of the stream that a request wants, None for a whole answer.

    1. `stream` says whether. 2. Without it the first media type of Accept that we write does. 3. Accept says which;
    it is JSON lines where Accept names neither. Raises `HandlerError`: 400 for a `stream` that is no truth, 406.
    """
    if wish is not None and not isinstance(wish, bool):
        raise HandlerError(f"'stream' is {wish!r:.50} and wants true or false.", 400)
    if wish is None:
        known = (each for each in _medias(accept) if each in _NAMED or each in huggingface_bodies.ACCEPTED)
        wish = next(known, "") in _NAMED
    form = named(accept) if wish else None
    if form is None:
        huggingface_bodies.check_accept(accept)
    return form or JSON_LINES if wish else None


def by_options(properties: Mapping[str, Any]) -> Form | None:
    """Return how DJL's options want every answer streamed, None where they do not; says which one is not known."""
    formatter = str(properties.get("output_formatter", ""))
    if formatter not in ("", "json", *_FORMATTERS):
        print(  # noqa: T201  the model's log
            f"option.output_formatter = {formatter:.50} has no effect: json, {', '.join(_FORMATTERS)} are known.",
            file=sys.stderr,
            flush=True,
        )
    if formatter in ("json", *_FORMATTERS):
        return _FORMATTERS.get(formatter)
    return _OUTPUTS if str(properties.get("enable_streaming", "")).lower() not in ("", "false") else None


def _medias(accept: str) -> list[str]:
    return [each.partition(";")[0].strip().lower() for each in accept.split(",")]
