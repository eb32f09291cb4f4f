"""Helpers with which people try their own handler on their desk: requests to build, outputs to read, a caller.

The name is the interface's; nothing here is a test of ours.
"""

from __future__ import annotations

import io
import os
from types import ModuleType
from typing import Any

from .inputs import Input
from .np_util import to_nd_list
from .outputs import Output, encode_json


def _request(value: Any, content_type: str, key: str | None) -> Input:
    request = Input()
    request.properties.update({"device_id": "-1", "content-type": content_type})
    request.content.add(key, bytearray(value))
    return request


def create_text_request(text: str, key: str | None = None) -> Input:
    """Build a request of plain text."""
    return _request(text.encode(), "text/plain", key)


def create_numpy_request(arrays: list[Any], key: str | None = None) -> Input:
    """Build a request of arrays as NDList bytes."""
    return _request(to_nd_list(arrays), "tensor/ndlist", key)


def create_npz_request(arrays: list[Any], key: str | None = None) -> Input:
    """Build a request of arrays as npz bytes."""
    import numpy as np

    memory = io.BytesIO()
    np.savez(memory, *arrays)
    return _request(memory.getvalue(), "tensor/npz", key)


def create_concurrent_batch_request(
    inputs: list[Any], properties: list[dict[str, Any]] | None = None, serving_properties: dict[str, Any] | None = None
) -> Input:
    """Build a batch of JSON values, with properties for each."""
    request = Input()
    request.properties.update(serving_properties or {})
    for index, each in enumerate(properties or []):
        request.properties.update({f"batch_{index:03d}.{name}": value for name, value in each.items()})
    for index, value in enumerate(inputs):
        request.content.add(f"batch_{index:03d}.data", bytearray(encode_json(value)))
    request.properties["batch_size"] = len(inputs)
    return request


def extract_output_as_input(outputs: Output) -> Input:
    """Return an output's content as an Input, whose methods read it."""
    inputs = Input()
    inputs.properties, inputs.content = outputs.properties, outputs.content
    return inputs


def extract_output_as_bytes(outputs: Output, key: str | None = None) -> Any:
    """Return an output's bytes."""
    return extract_output_as_input(outputs).get_as_bytes(key)


def extract_output_as_string(outputs: Output, key: str | None = None) -> str:
    """Return an output's text."""
    return extract_output_as_input(outputs).get_as_string(key)


def extract_output_as_numpy(outputs: Output, key: str | None = None) -> list[Any]:
    """Return an output's arrays, of NDList bytes."""
    return extract_output_as_input(outputs).get_as_numpy(key)


def extract_output_as_npz(outputs: Output, key: str | None = None) -> list[Any]:
    """Return an output's arrays, of npz bytes."""
    return extract_output_as_input(outputs).get_as_npz(key)


class TestHandler:
    """Calls the handler of a module as the server would; options come from OPTION_* variables."""

    __test__ = False  # not one of pytest's

    def __init__(self, entry_point: ModuleType, model_dir: str | None = None) -> None:
        self.module = entry_point
        named = {name: value for name, value in os.environ.items() if name.startswith("OPTION_")}
        self.serving_properties: dict[str, Any] = {name[7:].lower(): value for name, value in named.items()}
        self.serving_properties["model_dir"] = model_dir or os.getcwd()  # noqa: PTH109

    def inference(self, inputs: Input) -> Any:
        """Call `handle`, or what the handler property names."""
        name = inputs.function_name or inputs.properties.get("handler", "handle")
        return getattr(self.module, name)(inputs)

    def inference_batch(self, inputs: list[Any], properties: list[dict[str, Any]] | None = None) -> Any:
        """Call with a batch of JSON values."""
        return self.inference(create_concurrent_batch_request(inputs, properties, self.serving_properties))
