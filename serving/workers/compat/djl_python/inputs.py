"""What a DJL handler is called with: properties (headers and more) and content (named byte strings).

The content of one request is its query parameters and the body under the key `data`; of a batch, the content of all
requests, each key behind `batch_NNN.`. `workers.dialects.djl_input` builds these; people's handlers read them.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
from typing import Any

from .np_util import from_nd_list, from_npz
from .pair_list import PairList

# People's code may replace json.loads; we keep the one we know.
_loads = json.loads

# `batch_000.`: three digits and a dot; the key begins at the tenth character.
PREFIX_CHARS = 10


class Input:
    """One request, one batch of requests, or the empty call that warms a handler up.

    `properties` is a plain dict, free to change. `is_batch_aware` turns True when the handler asks about batches; it is
    ours, no handler knows it.
    """

    def __init__(self) -> None:
        self.function_name: str | None = None
        self.properties: dict[str, Any] = {}
        self.content = PairList()
        self.is_batch_aware = False

    def __str__(self) -> str:
        lines = [f"properties: {self.properties}"]
        lines += [f"{key}: {value!r}" for key, value in zip(self.content.keys, self.content.values)]  # noqa: B905  3.9
        return "\n".join(lines)

    def is_empty(self) -> bool:
        """Tell whether there is no content: the warm-up call. An empty body still is content."""
        return self.content.is_empty()

    def get_function_name(self) -> Any:
        """Return the name of the function that is to handle this."""
        return self.function_name or self.properties["handler"]

    def get_properties(self) -> dict[str, Any]:
        """Return the properties, the dict itself."""
        return self.properties

    def get_property(self, key: str) -> Any:
        """Return a property whatever the case of its name, None where there is none."""
        if key in self.properties:
            return self.properties[key]
        wanted = key.lower()
        return next((value for name, value in self.properties.items() if name.lower() == wanted), None)

    def get_content(self) -> PairList:
        """Return the content."""
        return self.content

    def contains_key(self, key: str) -> bool:
        """Tell whether the content has `key`, in exactly that case."""
        return self.content.get(key) is not None

    def get_as_bytes(self, key: str | None = None) -> Any:
        """Return an item as a bytearray: `key`'s, else `data`, else the first; None where there is no content.

        Raises KeyError where `key` is given and missing.
        """
        if self.content.is_empty():
            return None
        found = self.content.get("data" if key is None else key)
        if found is None and key is not None:
            raise KeyError(f"requested data for key:{key} is not found!")
        return self.content.value_at(0) if found is None else found

    def get_as_string(self, key: str | None = None) -> str:
        """Return an item as UTF-8 text. An empty Input raises AttributeError."""
        text: str = self.get_as_bytes(key).decode("utf-8")
        return text

    def get_as_json(self, key: str | None = None) -> Any:
        """Return an item's JSON value. Raises json.JSONDecodeError."""
        return _loads(self.get_as_bytes(key))

    def get_as_image(self, key: str | None = None) -> Any:
        """Return an item as a PIL image."""
        return importlib.import_module("PIL.Image").open(io.BytesIO(self.get_as_bytes(key)))

    def get_as_numpy(self, key: str | None = None) -> list[Any]:
        """Return the arrays of an item in NDList or npz bytes: always a list."""
        return from_nd_list(self.get_as_bytes(key))

    def get_as_npz(self, key: str | None = None) -> list[Any]:
        """Return the arrays of an item in npz bytes, in the order of the file."""
        return from_npz(self.get_as_bytes(key))

    def get_as_csv(self, key: str | None = None) -> list[dict[Any, Any]]:
        """Return the rows of an item, each a dict by the names of the first line."""
        return list(csv.DictReader(io.StringIO(self.get_as_string(key))))

    def get_data(self, key: str | None = None) -> Any:
        """Return an item as its Content-Type says: arrays, JSON, text, an image, else bytes; None where empty."""
        if self.is_empty():
            return None
        content_type = self.get_property("Content-Type") or ""
        for start, read in (
            ("tensor/ndlist", self.get_as_numpy),
            ("tensor/npz", self.get_as_npz),
            ("application/json", self.get_as_json),
            ("text/", self.get_as_string),
            ("image/", self.get_as_image),
        ):
            if content_type.startswith(start):
                return read(key)
        return self.get_as_bytes(key)

    def is_batch(self) -> bool:
        """Tell whether this holds several requests."""
        self.is_batch_aware = True
        return "batch_size" in self.properties

    def get_batch_size(self) -> int:
        """Count the requests in this."""
        self.is_batch_aware = True
        return int(self.properties.get("batch_size", 1))

    def get_batches(self) -> list[Input]:
        """Return an Input for each request: its own content and properties; [self] where this is no batch."""
        if not self.is_batch():
            return [self]
        return [self._part(f"batch_{index:03d}.") for index in range(self.get_batch_size())]

    def _part(self, prefix: str) -> Input:
        part = Input()
        part.function_name = self.function_name
        for name, value in self.properties.items():
            if name.startswith(prefix):
                part.properties[name[PREFIX_CHARS:]] = value
            elif name != "batch_size" and not name.startswith("batch_"):
                part.properties.setdefault(name, value)
        for key, value in zip(self.content.keys, self.content.values):  # noqa: B905  Python 3.9
            if (key or "").startswith(prefix):
                part.content.add(key[PREFIX_CHARS:], value)
        return part
