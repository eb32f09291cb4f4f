"""Which codec reads a Content-Type and which writes an Accept.

The media types are data; `decode` and `encode` are the only doors into this floor. What a body means is the business
of `json`, `tabular` and `binary`; what the model wants comes in as its `Signature`. Called by the HTTP rooms.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from serving.codecs import binary, json, tabular
from serving.errors import BadRequestError, NotAcceptableError, UnsupportedMediaTypeError
from serving.tensors import Signature, Tensors

JSON = "application/json"
CSV = "text/csv"
JSON_LINES = ("application/jsonlines", "application/x-jsonlines", "application/jsonl", "application/x-ndjson")
NPY = "application/x-npy"
NPZ = "application/x-npz"
RAW = "application/octet-stream"

_Reader = Callable[[bytes, Signature], tuple[Tensors, str]]
_Writer = Callable[[Tensors, str], bytes]


@dataclass(frozen=True, slots=True)
class Decoded:
    """Tensors of a request by input name, and the form of its JSON body, which the answer repeats."""

    tensors: Tensors
    form: str = "instances"


def decode(body: bytes, content_type: str | None, signature: Signature) -> Decoded:
    """Turn a request body into named tensors that fit `signature`; no Content-Type is JSON.

    Arrays are C-contiguous and native; those that are views of `body` are read-only. Raises
    `UnsupportedMediaTypeError` (415) for an unknown Content-Type, `BadRequestError` (400) with the place of the fault.
    """
    reader = _READERS.get(content_type or JSON) or _reader(content_type or JSON)
    tensors, form = reader(body, signature)
    return Decoded(signature.check(tensors), form)


def encode(outputs: Tensors, accept: str | None, form: str = "instances") -> tuple[bytes, str]:
    """Write `outputs` as the best type that `accept` allows; return the body and its Content-Type.

    The best is the highest q, then the client's order, then ours (JSON first); a type that cannot hold these outputs
    gives way to the next. Raises `NotAcceptableError` (406) when none is left, with the reason of the first.
    """
    outputs = _native(outputs)
    if accept is None or accept in (JSON, "*/*", ""):
        return json.write(outputs, form), JSON
    reason: NotAcceptableError | None = None
    for media in (accept,) if accept in _WRITERS else _ranked(accept):
        try:
            return _WRITERS[media](outputs, form), media
        except NotAcceptableError as fault:
            reason = reason or fault
    raise reason or NotAcceptableError(f"Nothing here writes Accept '{accept[:200]}': accept {', '.join(_WRITERS)}.")


def _native(outputs: Tensors) -> Tensors:
    for name, array in outputs.items():
        if array.dtype.kind not in "biufOSU":  # orjson writes half a document for a date that is not one
            raise NotAcceptableError(
                f"Output '{name}' has values of type {array.dtype} and numbers, booleans and strings are written: "
                "let the model return those."
            )
        if not array.dtype.isnative:
            return {name: each.astype(each.dtype.newbyteorder("="), copy=False) for name, each in outputs.items()}
    return outputs


def _reader(content_type: str) -> _Reader:
    media, _, parameters = content_type.partition(";")
    reader = _READERS.get(media.strip().lower() or JSON)
    if reader is None:
        raise UnsupportedMediaTypeError(
            f"Content-Type '{content_type[:200]}' is not read here: send {', '.join(_READERS)}."
        )
    charset = _CHARSET.search(parameters)
    if charset and charset[1].lower() not in _UTF8:
        raise UnsupportedMediaTypeError(f"Charset '{charset[1][:40]}' is not read here: send UTF-8.")
    return reader


_CHARSET = re.compile(r"charset\s*=\s*\"?([^\s;\"]+)", re.IGNORECASE)
_UTF8 = ("utf-8", "utf8", "us-ascii", "ascii")


def _read_raw(body: bytes, signature: Signature) -> tuple[Tensors, str]:
    """Read raw bytes; a body that does not fit and is JSON is read as that: AWS clients send JSON under this type."""
    if _V2_START.match(body):  # no number of any type has these bytes by chance, and its length may fit
        with contextlib.suppress(json.NotJsonError):
            return json.read(body, signature)
    try:
        return binary.read_raw(body, signature), "instances"
    except BadRequestError:
        if not _JSON_START.match(body):
            raise
        try:
            return json.read(body, signature)
        except json.NotJsonError:
            pass
        raise


_JSON_START = re.compile(rb"\s*[\[{]")
_V2_START = re.compile(rb'\s*\{\s*"(?:inputs|outputs|id|parameters)"\s*:')


def _rows(read: Callable[[bytes, Signature], Tensors]) -> _Reader:
    return lambda body, signature: (read(body, signature), "instances")


def _formless(write: Callable[[Tensors], bytes]) -> _Writer:
    return lambda outputs, _form: write(outputs)


_READERS: Mapping[str, _Reader] = {
    JSON: json.read,
    CSV: _rows(tabular.read_csv),
    **dict.fromkeys(JSON_LINES, _rows(tabular.read_lines)),
    NPY: _rows(binary.read_npy),
    NPZ: _rows(binary.read_npz),
    RAW: _read_raw,
}
_WRITERS: Mapping[str, _Writer] = {
    JSON: json.write,
    CSV: _formless(tabular.write_csv),
    **dict.fromkeys(JSON_LINES, _formless(tabular.write_lines)),
    NPY: _formless(binary.write_npy),
    NPZ: _formless(binary.write_npz),
    RAW: _formless(binary.write_raw),
}


def _ranked(accept: str) -> list[str]:
    """Return the types that an Accept header allows, best first: RFC 9110 12.5.1, the most specific range decides."""
    ranges = dict(_ranges(accept)) or {"*/*": (1.0, 0)}
    ranked = []
    for order, media in enumerate(_WRITERS):
        kind = media.partition("/")[0]
        q, position = next((ranges[key] for key in (media, f"{kind}/*", "*/*") if key in ranges), (0.0, 0))
        if q > 0:
            ranked.append((-q, position, order, media))
    return [media for *_, media in sorted(ranked)]


def _ranges(accept: str) -> Iterator[tuple[str, tuple[float, int]]]:
    for position, part in enumerate(accept.split(",")):
        media, _, parameters = part.partition(";")
        media = media.strip().lower()
        weight = _WEIGHT.search(parameters)  # a q that is no number counts as none: 1
        if media:
            yield "*/*" if media == "*" else media, (float(weight[1]) if weight else 1.0, position)


_WEIGHT = re.compile(r"\bq\s*=\s*([01](?:\.\d{0,3})?|\.\d{1,3})\s*(?:;|$)", re.IGNORECASE)
