"""Turns requests into what a DJL handler is called with: the `Input` of one request, of a batch, or of the warm-up.

It knows headers, query, forms and custom attributes and where each goes in an `Input`; it does not know handlers.
`djl` calls it, inside a worker, once `djl_python` can be imported.
"""

from __future__ import annotations

import email.parser
import importlib
import os
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serving.workers.handler import HandlerError, Launch, Request

if TYPE_CHECKING:
    from serving.workers.compat.djl_python.inputs import Input

_import = importlib.import_module
_parse_qsl = urllib.parse.parse_qsl

# Headers come in Title-Case; handlers look SageMaker's own up as SageMaker spells them.
_TITLED, _SPELLED = "X-Amzn-Sagemaker-", "X-Amzn-SageMaker-"
_ATTRIBUTES = _SPELLED + "Custom-Attributes"

_FORM = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
# curl -d says that anything is a form; no field's name begins like JSON.
_JSON_STARTS = (b"{", b"[", b'"')


def common_properties(launch: Launch) -> dict[str, Any]:
    """Return what every Input of a model carries: `device_id` a str, `tensor_parallel_degree` an int where given.

    A rank's device is LOCAL_RANK's business, and `device_id` -1, as DJL has it.
    """
    properties: dict[str, Any] = {
        "handler": launch.options.get("handler", "handle"),
        "model_dir": launch.folder,
        "device_id": "-1" if launch.ranks else _device_id(launch.device),
    }
    for name in ("tensor_parallel_degree", "pipeline_parallel_degree", "cluster_size"):
        if name in launch.options:
            given = launch.options[name]
            properties[name] = int(given) if given.isdecimal() else given
    return properties


def _device_id(device: str) -> str:
    return "-1" if device == "cpu" else device.partition(":")[2] or "0"


def warm_up_input(launch: Launch) -> Input:
    """Build the Input of the first call: no content, and the model's options among its properties."""
    inputs = new_input()
    inputs.properties.update(launch.options)
    _finish(inputs, common_properties(launch))
    return inputs


def new_input() -> Input:
    """Build an Input of the class that people's code imports."""
    made: Input = _import("djl_python.inputs").Input()
    return made


def request_input(request: Request, common: dict[str, Any]) -> Input:
    """Build the Input of one request: the query's items first, then the body, or the fields of a form.

    Raises `HandlerError` 400 for a request that names its own handler, and for a form that cannot be read.
    """
    inputs = new_input()
    inputs.properties.update(_headers(request))
    if inputs.get_property("handler") is not None:
        raise HandlerError("The handler can't be overridden in a request", 400)
    inputs.properties.pop("batch_size", None)  # a client's attribute makes no batch
    inputs.properties.setdefault("requestId", request.header("X-Request-Id") or os.urandom(16).hex())
    _finish(inputs, common)
    for key, value in _parse_qsl(request.query, keep_blank_values=True):
        inputs.content.add(key, bytearray(value, "utf-8"))
    for name, data in _items(request):
        inputs.content.add(name, data)
    return inputs


def _finish(inputs: Input, common: dict[str, Any]) -> None:
    inputs.properties.update(common)
    inputs.function_name = common["handler"]


def _headers(request: Request) -> dict[str, str]:
    headers = {}
    for name, value in request.headers.items():
        headers[_SPELLED + name[len(_TITLED) :] if name.startswith(_TITLED) else name] = value
    for attribute in headers.get(_ATTRIBUTES, "").split(";"):
        name, equals, value = attribute.partition("=")
        if equals and name.strip():
            headers[name.strip()] = value.strip()
    return headers


def _items(request: Request) -> list[tuple[str, bytearray]]:
    content_type = request.header("Content-Type")
    media = content_type.partition(";")[0].strip().lower()
    body = bytearray(request.body)
    if media == _MULTIPART:
        return list(_multipart(body, content_type))
    if media == _FORM and b"=" in body and not body.lstrip().startswith(_JSON_STARTS):
        fields = _parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        return [(name, bytearray(value, "utf-8")) for name, value in fields]
    return [("data", body)]


def _multipart(body: bytearray, content_type: str) -> Iterator[tuple[str, bytearray]]:
    """Yield name and bytes of every field. The parts are cut by hand: a mail parser reads files line by line."""
    boundary = _parsed_headers("Content-Type: " + content_type).get_boundary()
    if not boundary:
        raise HandlerError(f"The Content-Type is {content_type!r:.200} and wants a boundary: send the form anew.", 400)
    parts = (bytearray(b"\r\n") + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))[1:]
    if not parts or not parts[-1].startswith(b"--"):
        raise HandlerError("The multipart form has no first or no last boundary: send it whole.", 400)
    for part in parts[:-1]:
        head, blank, data = part.partition(b"\r\n\r\n")
        name = _parsed_headers(head.decode("utf-8", "replace").strip()).get_param("name", header="content-disposition")
        if not blank or not isinstance(name, str):
            raise HandlerError("A part of the multipart form has no name: give each a Content-Disposition.", 400)
        yield name, data


def _parsed_headers(head: str) -> Any:
    return email.parser.HeaderParser().parsestr(head + "\r\n\r\n")


def batch_input(items: list[Input], common: dict[str, Any]) -> Input:
    """Merge the Inputs of several requests: each one's keys and properties behind `batch_NNN.`.

    A property that all of them share stands there without a prefix as well.
    """
    batch = new_input()
    first = items[0].properties
    shared = {name: value for name, value in first.items() if all(each.properties.get(name) == value for each in items)}
    batch.properties.update(shared)
    for index, item in enumerate(items):
        prefix = f"batch_{index:03d}."
        own = {name: value for name, value in item.properties.items() if name not in common}
        batch.properties.update({prefix + name: value for name, value in own.items()})
        for position in range(item.content.size()):
            batch.content.add(prefix + item.content.key_at(position), item.content.value_at(position))
    batch.properties["batch_size"] = str(len(items))
    batch.function_name = common["handler"]
    return batch
