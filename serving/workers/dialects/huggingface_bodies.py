"""Bodies of the Hugging Face dialect, as the inference toolkit takes and gives them.

A request is `{"inputs": ..., "parameters": {...}}`, a text, a CSV with a header, an image or a sound; an answer is
JSON. What a request names is never fetched or opened: an image is sent (raw or in base64), not its address. Knows no
task but its kind, and no transformers; `huggingface` calls it.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from typing import Any

from serving.workers.handler import HandlerError, Request
from serving.workers.process_setup import reseed

_loads, _dumps = json.loads, json.dumps  # people's code may replace them

# Keys of a request; `options` (wait_for_model, use_cache) is the hosted API's and has nothing to say here.
_KEYS = {"inputs", "parameters", "options", "stream"}
ACCEPTED = {"", "*/*", "application/*", "application/json"}
_RAW = ("application/octet-stream", "application/x-image", "application/x-audio")


def check_accept(accept: str) -> None:
    """Raise `HandlerError` (406) unless JSON is among what `accept` names."""
    medias = {each.partition(";")[0].strip().lower() for each in accept.split(",")}
    if not medias & ACCEPTED:
        raise HandlerError(f"Accept '{accept[:200]}' is not written here: accept application/json.", 406)


def read(request: Request, task: str, kind: str) -> tuple[Any, dict[str, Any]]:
    """Return the inputs and the parameters of a request to a task of `kind` text, image or audio.

    The wish `stream` is among the parameters.
    Raises `HandlerError`: 415 for a Content-Type, 400 for a body.
    """
    media, _, _ = request.header("Content-Type", "application/json").partition(";")
    media = media.strip().lower()
    if media in ("application/json", ""):
        inputs, parameters = _keys(_read_json(request.body))
        return (inputs if kind == "text" else _decoded(inputs, kind)), parameters
    if media == "text/plain" and kind == "text":
        return _text(request.body), {}
    if media == "text/csv" and kind == "text":
        return _read_csv(_text(request.body)), {}
    if kind != "text" and (media.startswith(kind + "/") or media in _RAW):
        return _media(bytes(request.body), kind), {}
    also = "text/plain or text/csv" if kind == "text" else f"{kind}/*"
    raise HandlerError(
        f"Content-Type '{media[:100]}' is not read by task '{task}': send application/json, {also}.", 415
    )


def use_seed(parameters: dict[str, Any]) -> None:
    """Take `seed` out of the parameters and begin random numbers from it: what is sampled is then the same again.

    Raises `HandlerError` (400) for one that is no whole number of 32 bits.
    """
    seed = parameters.pop("seed", None)
    if seed is None:
        return
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 32:
        raise HandlerError(
            f"The parameter seed is {seed!r:.50} and wants a whole number from 0 to {(1 << 32) - 1}.", 400
        )
    reseed(seed)


def _decoded(inputs: Any, kind: str) -> Any:
    """Turn base64 into images or sounds: transformers would take a string for an address and fetch it."""
    if isinstance(inputs, list):
        return [_decoded(each, kind) for each in inputs]
    try:
        content = base64.b64decode(inputs.partition("base64,")[2] or inputs, validate=True)
    except (ValueError, AttributeError, TypeError):
        raise HandlerError(f"inputs wants the {kind} in base64, not an address or a file.", 400) from None
    return _media(content, kind)


def _media(content: bytes, kind: str) -> Any:
    if kind == "audio":
        return content
    from PIL import Image

    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, Image.DecompressionBombError) as fault:
        raise HandlerError(f"The image does not open: {last_line(fault)}", 400) from None


def _text(body: Any) -> str:
    try:
        return bytes(body).decode()
    except UnicodeDecodeError as fault:
        raise HandlerError(f"The body is not UTF-8 at byte {fault.start}: send UTF-8.", 400) from None


def _read_json(body: Any) -> Any:
    try:
        return _loads(_text(body))
    except (ValueError, RecursionError) as fault:
        raise HandlerError(f'The body is not JSON ({last_line(fault)}): send {{"inputs": ...}}.', 400) from None


def _keys(document: Any) -> tuple[Any, dict[str, Any]]:
    """Return inputs and parameters of a document; a question with its context may come without `inputs`."""
    if isinstance(document, (str, list)):
        return document, {}
    if isinstance(document, dict) and document.keys() == {"question", "context"}:
        return document, {}
    found = sorted(document) if isinstance(document, dict) else type(document).__name__
    if not isinstance(document, dict) or "inputs" not in document or document.keys() - _KEYS:
        raise HandlerError(f'The body has {found} and wants {{"inputs": ..., "parameters": {{...}}}}.', 400)
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise HandlerError(f"'parameters' is a {type(parameters).__name__} and wants an object.", 400)
    if "stream" in document:  # its place among the parameters is LMI's
        parameters["stream"] = document["stream"]
    return document["inputs"], parameters


def _read_csv(text: str) -> list[Any]:
    """Read rows under a header: one column `inputs`, or the columns that the task names."""
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    if not rows or None in rows[0] or None in rows[0].values():
        raise HandlerError("The CSV wants a header line (inputs, or question,context) and a row below it.", 400)
    return [row.get("inputs", row) for row in rows]


def write(answer: Any) -> bytes:
    """Write what a pipeline returned: numpy's and torch's numbers as numbers, images as base64, NaN as null."""
    try:
        return _dumps(answer, default=_plain, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:  # JSON has no NaN; null is in its place, as everywhere here
        return _dumps(_without_nan(_loads(_dumps(answer, default=_plain)))).encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Turn numpy's and torch's values into lists and numbers, images into base64 of a PNG."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "save"):
        file = io.BytesIO()
        value.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()
    raise TypeError(f"the answer holds a {type(value).__name__}, which JSON does not have")


def last_line(fault: BaseException) -> str:
    """Return the last line of a message, else the name of its type."""
    return (str(fault).strip() or type(fault).__name__).rpartition("\n")[2]
