"""SageMaker's TensorFlow container on the invocation routes: its custom attributes, its bodies, its answers.

    X-Amzn-SageMaker-Custom-Attributes: tfs-model-name=N,tfs-model-version=V,tfs-method=predict|classify|regress

The name counts where neither the path nor the Target-Model header names a model; version and method choose what of the
model is asked. TensorFlow's models are spoken to in this way always, other models that take tensors where a request has
such attributes. Bodies of media types that the container does not know go the way of all models. A model whose own code
reads bodies gets the attributes as they came. `sagemaker` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from serving.codecs import media, tfs, tfs_container
from serving.errors import BadRequestError, UnsupportedMediaTypeError
from serving.http import tfs_methods
from serving.http.replies import Environ
from serving.http.tfs_methods import Ask
from serving.repository.layouts import TENSORFLOW, ModelSpec

HEADER = "HTTP_X_AMZN_SAGEMAKER_CUSTOM_ATTRIBUTES"
# As the container looks for them (tfs_utils.py).
_ATTRIBUTE = re.compile(r"(tfs-[a-z-]+)=([^,]+)")
_JSON_OF_ROWS = ("application/jsonlines", media.JSON)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a request says in its custom attributes; empty where it does not."""

    name: str = ""
    version: str = ""
    method: str = ""

    @property
    def steers(self) -> bool:
        """Whether it chooses something of the model."""
        return bool(self.version or self.method)

    @property
    def is_there(self) -> bool:
        """Whether the client speaks to the container at all."""
        return bool(self.name or self.steers)


NONE = Attributes()


def attributes_of(environ: Environ) -> Attributes:
    """Return the attributes of a request; others than the three are not looked at."""
    header = environ.get(HEADER)
    if not header or "tfs-" not in header:
        return NONE
    said: Mapping[str, str] = {name: value.strip() for name, value in _ATTRIBUTE.findall(header)}
    return Attributes(said.get("tfs-model-name", ""), said.get("tfs-model-version", ""), said.get("tfs-method", ""))


def checked(attributes: Attributes) -> tuple[str, str]:
    """Return version and method; raises `BadRequestError` for those that cannot be."""
    version, method = attributes.version, attributes.method or "predict"
    if method not in tfs_methods.METHODS:
        raise BadRequestError(f"invalid tfs-method: {ascii(method[:40])}: send {', '.join(tfs_methods.METHODS)}.")
    if not (version == "" or (version.isascii() and version.isdigit())):
        raise BadRequestError(f"invalid tfs-model-version: {ascii(version[:40])}: send a number.")
    return version and (version.lstrip("0") or "0"), method


def is_tensorflow(spec: ModelSpec) -> bool:
    """Say whether a model is TensorFlow's."""
    return spec.format == TENSORFLOW


def is_spoken(environ: Environ, attributes: Attributes, spec: ModelSpec, body: bytes) -> bool:
    """Say whether a request is to be answered as the container does.

    Raises `UnsupportedMediaTypeError` for attributes beside a body that the container does not read.
    """
    kind = tfs_container.media_of(environ.get("CONTENT_TYPE"))
    if kind not in tfs_container.MEDIA:
        if attributes.steers:
            raise UnsupportedMediaTypeError(
                f"Unsupported Media Type: {kind[:100]}: with tfs-method or tfs-model-version in the custom attributes "
                f"send {', '.join(tfs_container.MEDIA)}."
            )
        return False
    if tfs_container.is_open_inference(body):
        return attributes.steers
    return attributes.is_there or is_tensorflow(spec)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is asked of a model, by its name, and in which type the answer is wanted."""

    model: str
    body: bytes
    content_type: str | None
    accept: str


def answer(asked: Exchange, method: str, ask: Ask) -> tuple[bytes, str]:
    """Return the body of an answer and its Content-Type; raises `BadRequestError` in TensorFlow Serving's words.

    JSON, in one line, unless the accepted types have neither JSON nor lines of it: then what they ask for.
    """
    request = tfs_container.to_api(asked.body, tfs_container.media_of(asked.content_type))
    accepted = _json_of(asked.accept)
    if accepted is None and method == "predict":
        prediction = tfs.read_predict(request)
        found = ask(prediction.signature, tfs_methods.reader(prediction))
        return media.encode(found.outputs, asked.accept, prediction.form)
    return tfs_methods.run(method, request, asked.model, ask), accepted or media.JSON


def _json_of(accept: str) -> str | None:
    """Return which of the two types of JSON an Accept names first, None where it names neither."""
    named = (part.partition(";")[0].strip().lower() for part in accept.split(","))
    return next((media.JSON if each == "*/*" else each for each in named if each in (*_JSON_OF_ROWS, "*/*")), None)
