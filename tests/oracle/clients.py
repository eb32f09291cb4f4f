"""tritonclient's four clients behind one call, and what they got as an observation.

Knows how each of http, http.aio, grpc and grpc.aio is made, called and closed, and turns what comes back (dictionaries,
protobuf, results, exceptions) into plain values. Does not know any test or server.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.oracle.servers import Target

FLAVOURS = ("http", "http.aio", "grpc", "grpc.aio")
WAIT_S = 30


@dataclass(frozen=True)
class Input:
    """One input: its tensor, and what it is said to be where that is something else."""

    name: str
    tensor: np.ndarray[Any, Any]
    binary: bool = True
    datatype: str | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Output:
    """One wanted output; `classes` above 0 asks for a classification."""

    name: str
    binary: bool = True
    classes: int = 0


def call(target: Target, flavour: str, method: str, *args: Any, **more: Any) -> Any:
    """Call one method of one client of one flavour and return what came of it."""
    return use(target, flavour, lambda client: getattr(client, method)(*args, **more))


def use(target: Target, flavour: str, action: Callable[[Any], Any]) -> Any:
    """Hand a client to `action`, wait for what it returns where that is awaited, close the client."""
    module = importlib.import_module(f"tritonclient.{flavour}")
    address = target.http if flavour.startswith("http") else target.grpc
    if flavour.endswith(".aio"):
        return asyncio.run(_await(module, address, action))
    client = module.InferenceServerClient(address)
    try:
        return plain_value(action(client))
    except (InferenceServerException, ValueError, TypeError) as error:
        return plain_error(error)
    finally:
        client.close()


async def _await(module: Any, address: str, action: Callable[[Any], Any]) -> Any:
    client = module.InferenceServerClient(address)
    try:
        return plain_value(await asyncio.wait_for(action(client), WAIT_S))
    except (InferenceServerException, ValueError, TypeError) as error:
        return plain_error(error)
    finally:
        await client.close()


def infer(
    target: Target, flavour: str, model: str, inputs: list[Input], outputs: list[Output] | None = None, **more: Any
) -> Any:
    """Infer once."""
    wanted = None if outputs is None else [make_output(flavour, each) for each in outputs]
    return call(target, flavour, "infer", model, [make_input(flavour, each) for each in inputs], outputs=wanted, **more)


def make_input(flavour: str, each: Input) -> Any:
    """Return tritonclient's own value for an input."""
    of = tritonclient.http if flavour.startswith("http") else tritonclient.grpc
    made = of.InferInput(each.name, list(each.tensor.shape), np_to_triton_dtype(each.tensor.dtype))
    if flavour.startswith("http"):
        made.set_data_from_numpy(each.tensor, binary_data=each.binary)
        made._datatype = each.datatype or made._datatype
    else:
        made.set_data_from_numpy(each.tensor)
        made._input.datatype = each.datatype or made._input.datatype
    return made.set_shape(list(each.shape)) if each.shape else made


def make_output(flavour: str, each: Output) -> Any:
    """Return tritonclient's own value for a wanted output."""
    if flavour.startswith("http"):
        return tritonclient.http.InferRequestedOutput(each.name, binary_data=each.binary, class_count=each.classes)
    return tritonclient.grpc.InferRequestedOutput(each.name, class_count=each.classes)


def plain_value(value: Any) -> Any:
    """Return what a client's method returned without tritonclient's own types."""
    if isinstance(value, tritonclient.http.InferResult):
        return {"response": value.get_response(), "tensors": _tensors(value, value.get_response()["outputs"])}
    if isinstance(value, tritonclient.grpc.InferResult):
        response = value.get_response(as_json=True)
        return {"response": response, "tensors": _tensors(value, response.get("outputs", []))}
    return MessageToDict(value, preserving_proto_field_name=True) if isinstance(value, Message) else value


def plain_error(error: Exception) -> dict[str, Any]:
    """Return what an exception says; one that is not tritonclient's was raised before anything was sent."""
    if not isinstance(error, InferenceServerException):
        return {"client": str(error)}
    return {"error": error.message(), "status": error.status()}


def stream(target: Target, requests: list[dict[str, Any]]) -> list[Any]:
    """Send `requests` over one stream with callbacks and return what came until the stream was stopped."""
    came: list[Any] = []
    client = tritonclient.grpc.InferenceServerClient(target.grpc)
    client.start_stream(lambda result, error: came.append(plain_error(error) if error else plain_value(result)))
    for each in requests:
        client.async_stream_infer(**each)
    client.stop_stream()
    client.close()
    return came


def stream_aio(target: Target, requests: list[dict[str, Any]]) -> list[Any]:
    """Send `requests` over one stream of grpc.aio and return what came."""

    async def ask() -> AsyncIterator[dict[str, Any]]:
        for each in requests:
            yield each

    async def collect() -> list[Any]:
        module = importlib.import_module("tritonclient.grpc.aio")
        async with module.InferenceServerClient(target.grpc) as client:
            pairs = [pair async for pair in client.stream_infer(ask())]
        return [plain_error(error) if error else plain_value(result) for result, error in pairs]

    return asyncio.run(asyncio.wait_for(collect(), WAIT_S))


def _tensors(result: Any, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["name"]: _tensor(_array(result, each)) for each in outputs}


def _array(result: Any, output: dict[str, Any]) -> np.ndarray[Any, Any] | None:
    # What went into shared memory has no data here, and as_numpy breaks on it.
    try:
        found: np.ndarray[Any, Any] | None = result.as_numpy(output["name"])
    except (KeyError, ValueError):
        return None
    return found


def _tensor(array: np.ndarray[Any, Any] | None) -> Any:
    if array is None:
        return None
    flat = [each.decode() if isinstance(each, bytes) else each for each in array.reshape(-1).tolist()]
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": flat}
