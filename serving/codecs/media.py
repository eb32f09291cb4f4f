"""Which codec reads a Content-Type and which writes an Accept.

The media types are data; `decode` and `encode` are the only doors into this floor. What a body means is the business
of `json`, `tabular` and `binary`; what the model wants comes in as its `Signature`. Called by the HTTP rooms.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.tensors import Signature, Tensors


@dataclass(frozen=True, slots=True)
class Decoded:
    """Tensors of a request by input name, and the form of its JSON body, which the answer repeats."""

    tensors: Tensors
    form: str = "instances"


def decode(body: bytes, content_type: str | None, signature: Signature) -> Decoded:
    """Turn a request body into named tensors that fit `signature`.

    Raises `UnsupportedMediaTypeError` (415) for an unknown Content-Type and `BadRequestError` (400) with the place of the fault.
    """
    raise NotImplementedError


def encode(outputs: Tensors, accept: str | None, form: str = "instances") -> tuple[bytes, str]:
    """Write `outputs` as the best type that `accept` allows; return the body and its Content-Type.

    Raises `NotAcceptableError` (406) when no codec writes any of the types asked for.
    """
    raise NotImplementedError
