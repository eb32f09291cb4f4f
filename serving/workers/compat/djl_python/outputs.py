"""What a DJL handler returns: a status, properties (which become headers) and content (named byte strings).

`workers.dialects.djl_output` turns it into a reply: the item `data`, else the first, is the body. A stream replaces the
content. Setters return the Output, so that people chain them.
"""

from __future__ import annotations

import datetime
import io
import json
import logging
from typing import Any

from .np_util import to_nd_list
from .pair_list import PairList

_Encoder = json.JSONEncoder
_dumps = json.dumps


class _ValueEncoder(_Encoder):
    """JSON of what models return: numpy integers, floats and arrays, and datetimes, besides the plain types."""

    def default(self, o: Any) -> Any:
        if isinstance(o, datetime.datetime):
            return str(o)
        kinds = {kind.__name__ for kind in type(o).__mro__ if kind.__module__ == "numpy"}
        if kinds & {"integer", "floating"}:
            return o.item()
        return o.tolist() if "ndarray" in kinds else super().default(o)


def encode_json(value: Any) -> bytes:
    """Encode as DJL does: two spaces an indent, no blank after separators, UTF-8. NaN raises ValueError."""
    text = _dumps(value, ensure_ascii=False, allow_nan=False, indent=2, separators=(",", ":"), cls=_ValueEncoder)
    return text.encode("utf-8")


def format_as_line(chunk: Any) -> str:
    """Format a chunk of a stream as one line of JSON with the key `outputs`: the default."""
    return _dumps({"outputs": chunk}) + "\n"


class Output:
    """One answer, or the answers to a batch; `code` is the HTTP status."""

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.stream_content: Any = None
        self.stream_output_formatter: Any = None
        self.finalize_function: Any = None
        self.finalize_args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        types = [f"type: {type(value)}" for value in self.content.values]
        content = dict(zip(map(str, self.content.keys), types))  # noqa: B905  Python 3.9
        shown = {"code": self.code, "message": self.message, "properties": self.properties, "content": content}
        return _dumps(shown, indent=2, default=str)

    def set_code(self, code: int) -> Output:
        """Set the HTTP status."""
        self.code = code
        return self

    def set_message(self, message: str) -> Output:
        """Set the message that goes with the status."""
        self.message = message
        return self

    def add_property(self, key: str, val: Any) -> Output:
        """Set a property, which becomes a header."""
        self.properties[key] = val
        return self

    def get_property(self, key: str) -> Any:
        """Return a property, None where there is none."""
        return self.properties.get(key)

    def get_properties(self) -> dict[str, Any]:
        """Return the properties, the dict itself."""
        return self.properties

    def error(self, error: str, code: int = 424, message: str = "invoke handler failure") -> Output:
        """Make this an error: status, message and a JSON body of both and `error`."""
        self.code = code
        self.message = message
        self.add_property("content-type", "application/json")
        return self.add_as_json({"code": code, "message": message, "error": error})

    def add(self, value: Any, key: Any = None, batch_index: int | None = None) -> Output:
        """Add text as UTF-8, bytes as they are, anything else as JSON."""
        if isinstance(value, str):
            value = value.encode("utf-8")
        elif not isinstance(value, (bytes, bytearray)):
            value = encode_json(value)
        return self._add(value, key, batch_index)

    def add_as_string(self, value: str, key: Any = None, batch_index: int | None = None) -> Output:
        """Add text as UTF-8."""
        return self._add(value.encode("utf-8"), key, batch_index)

    def add_as_json(self, val: Any, key: Any = None, batch_index: int | None = None) -> Output:
        """Add a value as JSON. Raises ValueError for NaN, TypeError for sets, tensors and numpy booleans."""
        return self._add(encode_json(val), key, batch_index)

    def add_as_numpy(self, np_list: Any, key: Any = None, batch_index: int | None = None) -> Output:
        """Add an array, or a list of them, as NDList bytes."""
        return self._add(to_nd_list(np_list), key, batch_index)

    def add_as_npz(self, np_list: Any, key: Any = None, batch_index: int | None = None) -> Output:
        """Add a list of arrays as npz bytes, named arr_0, arr_1 and so on."""
        import numpy as np

        memory = io.BytesIO()
        np.savez(memory, *np_list)
        return self._add(memory.getvalue(), key, batch_index)

    def _add(self, value: bytes | bytearray, key: Any, batch_index: int | None) -> Output:
        if key is not None and not isinstance(key, str):
            logging.warning("Output key should be a str and is a %s: it is converted.", type(key).__name__)
            key = str(key)
        if batch_index is not None:
            key = f"batch_{batch_index}.{key or ''}"
        self.content.add(key, value)
        return self

    def add_stream_content(self, stream_content: Any, output_formatter: Any = format_as_line) -> Output:
        """Answer with the chunks of an iterator; `output_formatter` turns each into text.

        Without one (None) text and bytes pass as they are and anything else becomes JSON.
        """
        self.stream_content = stream_content
        self.stream_output_formatter = output_formatter
        return self

    def finalize(self, finalize_function: Any, *args: Any) -> Output:
        """Have `finalize_function(*args)` called once the answer is sent."""
        self.finalize_function = finalize_function
        self.finalize_args = args
        return self

    def execute_finalize(self) -> Any:
        """Call what `finalize` was given; what it raises is logged and goes no further."""
        if self.finalize_function is None:
            return None
        try:
            return self.finalize_function(*self.finalize_args)
        except Exception:
            logging.exception("the finalize function failed")
            return None
