"""Tables as text: CSV and JSON lines, one row a line.

Knows how rows of numbers or strings become the inputs of a model and back, and says the row and the column of a fault
(both counted from 1, blank lines included, as an editor shows them). CSV has no header line, quotes only around
strings, and no types: numbers for a model that does not tell its type are FP32; `nan` and `inf` are numbers. What a
JSON row may be is the business of `json`. `media` calls it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

import numpy as np

from serving.codecs import json
from serving.codecs.binary import cast
from serving.errors import BadRequestError, NotAcceptableError
from serving.tensors import Array, Signature, Tensors, TensorSpec


def read_lines(body: bytes, signature: Signature) -> Tensors:
    """Read JSON lines: each line one instance; blank lines are skipped.

    Raises `BadRequestError` with the number of the line that does not parse.
    """
    lines = ((number, line) for number, line in enumerate(body.split(b"\n"), 1) if line.strip())
    rows = [json.parse(line, f"Line {number}") for number, line in lines]
    if not rows:
        raise BadRequestError("The body has no line with an instance: send at least one.")
    return json.read_instances(rows, signature)


def write_lines(outputs: Tensors) -> bytes:
    """Write a JSON row a line; raises `NotAcceptableError` when the outputs do not share a first dimension."""
    if not json.have_rows(outputs):
        shapes = {name: list(array.shape) for name, array in outputs.items()}
        raise NotAcceptableError(f"The outputs share no rows ({shapes}) to write a line each: accept application/json.")
    return b"".join(json.dump(row) + b"\n" for row in json.rows(outputs))


def read_csv(body: bytes, signature: Signature) -> Tensors:
    """Read comma-separated rows into the one input, or into several by the widths of their columns, in their order.

    Inputs have rank 1 (a column, or one row) or 2. Raises `BadRequestError` with the row and column of a fault.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as fault:
        raise BadRequestError(f"The CSV is not UTF-8 at byte {fault.start}: send UTF-8.") from None
    if not text.strip():
        raise BadRequestError("The CSV is empty: send at least one row.")
    if len(signature.inputs) != 1:
        return _columns(_numbers(text, np.dtype(np.float64)), signature)
    (spec,) = signature.inputs
    if spec.dims is not None and len(spec.dims) not in (1, 2):
        raise BadRequestError(
            f"CSV has rows and columns and input '{spec.name}' has dims {list(spec.dims)}: send application/json."
        )
    if spec.dtype == "BYTES":
        table = _strings(text)
    else:
        table = cast(_numbers(text, spec.numpy_dtype), spec.dtype or "FP32", spec.name)
    return {spec.name: _ranked(table, spec)}


def _ranked(table: Array, spec: TensorSpec) -> Array:
    return table.reshape(-1) if spec.dims is not None and len(spec.dims) == 1 and 1 in table.shape else table


def _columns(table: Array, signature: Signature) -> Tensors:
    widths = [_width(spec) for spec in signature.inputs]
    if sum(widths) != table.shape[1]:
        wanted = ", ".join(f"{spec.name}: {width}" for spec, width in zip(signature.inputs, widths, strict=True))
        raise BadRequestError(f"The CSV has {table.shape[1]} columns and the model wants {sum(widths)} ({wanted}).")
    parts = np.split(table, np.cumsum(widths)[:-1], axis=1)
    return {
        spec.name: _ranked(np.ascontiguousarray(cast(part, spec.dtype or "FP32", spec.name)), spec)
        for spec, part in zip(signature.inputs, parts, strict=True)
    }


def _width(spec: TensorSpec) -> int:
    dims = spec.dims or ()
    if spec.dtype == "BYTES" or len(dims) not in (1, 2) or dims[1:] == (-1,):
        raise BadRequestError(
            f"CSV columns cannot be dealt out to several inputs when '{spec.name}' is {spec.dtype} with dims "
            f"{list(dims) or 'unknown'}: send application/json, which has names."
        )
    return dims[1] if len(dims) == 2 else 1


def _numbers(text: str, dtype: np.dtype[np.generic] | None) -> Array:
    exact = np.dtype(np.uint64 if dtype == np.uint64 else np.int64)
    kinds = [exact] if dtype is not None and dtype.kind in "iu" else []  # whole numbers do not go through doubles
    for kind in (*kinds, np.dtype(np.float64)):
        try:
            return np.loadtxt(io.StringIO(text), kind, delimiter=",", comments=None, ndmin=2)
        except ValueError as fault:
            said = str(fault).partition(";")[0]
    raise BadRequestError(_fault(text) or f"The CSV does not parse: {said}.") from None


def _fault(text: str) -> str | None:
    width = 0
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line:
            continue
        cells = line.split(",")
        bad = [column for column, cell in enumerate(cells, 1) if not _is_number(cell)]
        if len(bad) == len(cells) and not width:
            return f"Row {number} of the CSV has no number in it: if it is a header, leave it out."
        if bad:
            return f"Row {number}, column {bad[0]} of the CSV is '{cells[bad[0] - 1][:40]}' and wants a number."
        if width and len(cells) != width:
            return f"Row {number} of the CSV has {len(cells)} columns and the rows before it have {width}."
        width = len(cells)
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _strings(text: str) -> Array:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error as fault:
        raise BadRequestError(f"Row {reader.line_num} of the CSV does not parse: {fault}.") from None
    odd = next((number for number, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
    if odd is not None:
        raise BadRequestError(f"Row {odd} of the CSV has {len(rows[odd - 1])} columns and row 1 has {len(rows[0])}.")
    table = np.empty((len(rows), len(rows[0])), object)
    table[:] = [[cell.encode() for cell in row] for row in rows]
    return table


def write_csv(outputs: Tensors) -> bytes:
    """Write rows of the outputs side by side, in order; every row ends in a newline.

    Raises `NotAcceptableError` for an output of rank over 2 and for outputs that do not share their rows.
    """
    shapes = {name: list(array.shape) for name, array in outputs.items()}
    if any(array.ndim > 2 for array in outputs.values()) or (len(outputs) != 1 and not json.have_rows(outputs)):
        raise NotAcceptableError(
            f"CSV has rows and columns and the outputs have shapes {shapes}: accept application/json or x-npz."
        )
    parts = [_lines(array) for array in outputs.values()]
    return b"".join(b",".join(cells) + b"\n" for cells in zip(*parts, strict=True))


def _lines(array: Array) -> Iterable[bytes]:
    if array.ndim < 2:
        array = array.reshape(-1, 1)
    if array.dtype.kind in "OSU":
        return map(_quoted, array.tolist())
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return (",".join(row).encode() for row in array.astype(str).tolist())  # JSON has no nan
    return json.dump(array)[2:-2].split(b"],[") if len(array) else ()


def _quoted(row: list[object]) -> bytes:
    file = io.StringIO()
    cells = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell for cell in row]
    csv.writer(file, lineterminator="").writerow(cells)
    return file.getvalue().encode()
