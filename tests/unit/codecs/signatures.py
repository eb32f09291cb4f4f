"""Signatures that the tests of the codecs share: `x` of FP32 [-1, 4] and its relatives."""

from __future__ import annotations

from serving.tensors import Signature, TensorSpec


def signature(*inputs: tuple[str, str | None, tuple[int, ...] | None]) -> Signature:
    """Return a signature of these inputs and no outputs."""
    return Signature(tuple(TensorSpec(*each) for each in inputs), ())


ROWS = signature(("x", "FP32", (-1, 4)))
IMAGE = signature(("x", "FP32", (-1, 3, 32, 32)))
UNTOLD = signature(("x", None, None))
TEXT = signature(("text", "BYTES", (-1,)))
PAIR = signature(("a", "FP32", (-1, 2)), ("b", "INT64", (-1,)))
EVERY = (
    ROWS,
    IMAGE,
    UNTOLD,
    TEXT,
    PAIR,
    signature(("x", "INT8", (4,))),
    signature(("x", "BOOL", (-1, -1))),
    signature(("x", "FP16", (2, -1))),
    signature(("x", "UINT64", (-1,))),
    signature(("a", None, None), ("text", "BYTES", (-1, 1))),
    signature(("x", "FP32", (-1, 0))),
    signature(("x", "BYTES", (1,))),
    signature(("x", "FP32", ())),
)
