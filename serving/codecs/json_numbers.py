"""Large JSON of numbers, parsed straight into arrays by simdjson.

For bodies that are rectangular numbers and little else: an image as nested lists takes a sixth of orjson's time.
Whatever is not plainly that is left to the parser of all others, which also says what is wrong. `json` calls it.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import simdjson

from serving.tensors import Array

# Where both parsers cost the same (9 us at 1.3 KB of floats); at 3x224x224 (2.9 MB) orjson takes 16 ms, simdjson 2.8.
SIMDJSON_FROM_BYTES = 1536
MOST_MEMBERS = 100  # simdjson finds a key by going through all before it: 500,000 of them took over four minutes
MAX_RANK = 64  # numpy's own limit (NPY_MAXDIMS of numpy 2)
_BUFFERS = (("i", np.int64), ("u", np.uint64), ("d", np.float64))


def read_numbers(body: bytes) -> Any | None:
    """Parse a body, its arrays of numbers into numpy's; `None` when it is not plainly rectangular numbers.

    A parser for each call: it costs no more than one that is kept (measured at 1 KB and 3 MB), and keeps no buffer.
    """
    outline = _Outline()
    try:
        document = outline.of(simdjson.Parser().parse(body))
    except Exception:  # whatever is wrong, the slow parser finds it and says where
        return None
    # simdjson flattens, so a row [1, [2], []] would pass for [1, 2]. Every array that `outline` went through is as wide
    # as its siblings; no bracket beyond those means that the leaves are numbers and nothing else.
    brackets = np.count_nonzero(np.frombuffer(body, np.uint8) == ord("["))
    return document if brackets == outline.arrays else None


def _few(members: Any) -> None:
    if len(members) > MOST_MEMBERS:
        raise ValueError("orjson makes many objects, and objects of many keys, quicker")


class _Outline:
    """A document with numpy arrays for its arrays of numbers, and how many brackets that accounts for."""

    def __init__(self) -> None:
        self.arrays = 0

    def of(self, element: Any) -> Any:
        if isinstance(element, simdjson.Object):
            _few(element)
            members = {key: self.of(element[key]) for key in element}
            if len(members) != len(element):
                raise ValueError("a key is there twice")
            return members
        if not isinstance(element, simdjson.Array):
            return element
        first = element[0]
        if isinstance(first, simdjson.Object):
            _few(element)
            self.arrays += 1
            return [self.of(row) for row in element]
        if len(element) <= MAX_RANK and not isinstance(first, simdjson.Array):  # a shape, or too short to matter
            self.arrays += 1
            return element.as_list()
        return self.numbers(element)

    def numbers(self, array: Any) -> Array:
        level, shape = [array], []
        while True:
            self.arrays += len(level)
            (width,) = set(map(len, level))
            shape.append(width)
            leaf = level[0][0]
            if not isinstance(leaf, simdjson.Array):
                break
            level = list(chain.from_iterable(level))
        for kind, dtype in _BUFFERS if type(leaf) is int else _BUFFERS[-1:]:
            try:
                return np.frombuffer(array.as_buffer(of_type=kind), dtype).reshape(shape)
            except (TypeError, ValueError):
                continue
        raise ValueError("not numbers")
