"""Bodies that SageMaker's TensorFlow container takes, turned into those of TensorFlow Serving's API.

1. JSON that has the keys of that API anywhere is passed on as it is. 2. JSON lines are rows, one a line. 3. Other JSON
is the rows where it is an array of arrays, and one row otherwise. 4. CSV is a row a line: its fields, or of one column
each field itself; numbers are numbers, all else is text. So its nginx does it (tensorflowServing.js of the container
with TensorFlow Serving 2.20). Two things are read here that are an error there: lines that are no arrays or objects,
under the content type of lines, and numbers in CSV that JSON would not write (`.5`, `+1`, `007`).

Bodies stay text, so that large ones are parsed once and quickly. Knows no model; `http/tfs_container` calls it.
"""

from __future__ import annotations

import re

from serving.codecs import json
from serving.errors import BadRequestError

JSON = "application/json"
LINES = ("application/jsonlines", "application/jsons")
CSV = "text/csv"
MEDIA = (JSON, *LINES, CSV)

_OWN_KEYS = re.compile(rb'"(?:instances|inputs|examples)"\s*:')
_DATATYPE = re.compile(rb'"datatype"\s*:')
_ADJACENT = re.compile(rb"[}\]]\s*\n\s*[\[{]")
_ROWS = re.compile(rb"\s*\[\s*\[")
_LINE_END = re.compile(rb"\r?\n")
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*")
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_OF_NUMBERS = b"0123456789.eE+-, \t\r\n"


def media_of(content_type: str | None) -> str:
    """Return a Content-Type without its parameters, JSON for none."""
    return (content_type or JSON).partition(";")[0].strip().lower() or JSON


def is_open_inference(body: bytes) -> bool:
    """Say whether a JSON body is one of Open Inference (V2): its tensors tell their datatypes."""
    return _DATATYPE.search(body) is not None


def to_api(body: bytes, media: str) -> bytes:
    """Return the body of TensorFlow Serving's API that a body of one of `MEDIA` stands for.

    Raises `BadRequestError` for CSV that is not UTF-8; whether JSON parses is found out by who reads the result.
    """
    if media == CSV:
        return _instances(_csv_rows(body))
    if _OWN_KEYS.search(body):
        return body
    text = body.strip()
    if b"\n" in text and (media in LINES or _ADJACENT.search(text)):
        return _instances(b",".join(line for line in _LINE_END.split(text) if line.strip()))
    return b'{"instances":' + (body if _ROWS.match(body) else b"[" + body + b"]") + b"}"


def _instances(rows: bytes) -> bytes:
    return b'{"instances":[' + rows + b"]}"


def _csv_rows(body: bytes) -> bytes:
    lines = [line for line in _LINE_END.split(body.strip()) if line.strip()]
    if not body.translate(None, _OF_NUMBERS):  # nothing else in it: most CSV is numbers that JSON writes as well
        rows = b",".join(b"[" + line + b"]" if b"," in line else line for line in lines)
        try:
            json.load(_instances(rows))
            return rows
        except BadRequestError:
            pass
    return b",".join(_csv_row(line) for line in lines)


def _csv_row(line: bytes) -> bytes:
    try:
        fields = _fields(line.strip().decode())
    except UnicodeDecodeError as fault:
        raise BadRequestError(f"The CSV body is not UTF-8 ({fault.reason}): send it as UTF-8.") from None
    cells = [_cell(each) for each in fields]
    return b"[" + b",".join(cells) + b"]" if len(cells) > 1 else cells[0]


def _fields(line: str) -> list[str]:
    """Split a line at its commas; those within quotes are text, as are doubled quotes."""
    fields, is_quoted = [""], False
    parts = line.split('"')
    for number, part in enumerate(parts):
        if number:
            # Two quotes with nothing between them, within quotes, are one that is meant.
            if is_quoted and part == "" and number < len(parts) - 1:
                fields[-1] += '"'
            is_quoted = not is_quoted
        if is_quoted:
            fields[-1] += part
        else:
            first, *others = part.split(",")
            fields[-1] += first
            fields += others
    return fields


def _cell(field: str) -> bytes:
    plain = field.strip()
    if _JSON_NUMBER.fullmatch(plain):
        return plain.encode()
    return json.dump(float(plain) if _NUMBER.fullmatch(field) else field)
