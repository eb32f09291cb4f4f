"""Models that a tritonserver runs: what we cannot run ourselves (TensorRT, FIL, DALI ...), with our life cycle.

Each is laid into the server's repository under a name of its own, so that two archives that both hold a `resnet` live
side by side; texts that come back bear the name that people know. Tensors travel over gRPC on loopback. When the server
died and was started again, what was loaded is loaded again; until then requests are 503.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

from serving.backends.base import Footprint
from serving.backends.triton_server import TritonServer
from serving.codecs import json
from serving.codecs.packed import Unread, to_bytes
from serving.errors import (
    BadRequestError,
    DeadlineExceededError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelFailedError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.logs import quoted
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, Tensors, TensorSpec
from serving.workers import answer_frames
from serving.workers.handler import Reply, Request
from serving.workers.plan import Alone, Host

log = logging.getLogger("wharf.tritonserver")

# A model of the Python backend is a process of some 42 MB (measured with 2.51); other brands' engines are as large as
# their files, and again while they are read.
_MODEL_BYTES = 48 << 20
_POLL_S = 0.005
_UNLOAD_TIMEOUT_S = 60.0
# What a load that failed says around the model's own words.
_REASON = re.compile(r"^load failed for model .*? is at UNAVAILABLE state: Internal: (.*?);\n?$", re.DOTALL)
# Foreign words for memory that was not had; only where the server's own code does not say it by type.
_MEMORY = re.compile(
    r"CUDA[ _]out[ _]of[ _]memory|\bout of memory\b|\bMemoryError\b|\bOutOfMemory\b|\bOOM\b|failed to allocate memory"
    r"|unable to create TensorRT context|memory limit set for GPU|CUDNN_STATUS_NOT_INITIALIZED|CUBLAS_STATUS_ALLOC",
    re.IGNORECASE,
)


class TritonModel:
    """A model that is ready in the server; `key` is its name there."""

    is_outside = True
    takes_bodies = False
    threads = 1

    def __init__(self, spec: ModelSpec, key: str, backend: TritonBackend, held_bytes: int) -> None:
        self.key = key
        self._name = spec.name
        self._backend = backend
        self._held_bytes = held_bytes
        self._timeout_s = backend.timeout_s
        self._host: Host = Alone()
        metadata = backend.metadata(key)
        self.signature = Signature(_specs(metadata.inputs), _specs(metadata.outputs))
        self._is_decoupled = bool((spec.triton or {}).get("model_transaction_policy", {}).get("decoupled"))

    def held_bytes(self) -> int:
        """Return what its load added to the server's memory."""
        return self._held_bytes

    def attach(self, host: Host) -> None:
        """Take whom to tell that the model is beyond repair."""
        self._host = host

    def withdraw(self, reason: str) -> None:
        """Say that the model did not come back after the server's death."""
        self._host.withdraw(f"Model '{self._name}' was not loaded again after tritonserver died: {reason}")

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name; raises what `invoke` raises."""
        return self.invoke(Request(tensors=inputs), time.monotonic() + self._timeout_s).tensors or {}

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request's tensors before `deadline` (of the monotonic clock); a decoupled model answers in chunks.

        Raises `ModelFailedError` with the server's words, `UnavailableError` while it is started again.
        """
        message = _message(self.key, request)
        timeout_s = max(0.001, deadline - time.monotonic())
        with self._backend.errors(self._name, self.key):
            stub = self._backend.server.stub()
            if self._is_decoupled:
                return Reply(chunks=self._stream(stub, message, timeout_s))
            return Reply(tensors=_tensors(stub.ModelInfer(message, timeout=timeout_s)))

    def _stream(self, stub: Any, message: Any, timeout_s: float) -> Iterator[bytes]:
        call = stub.ModelStreamInfer(iter((message,)), timeout=timeout_s)
        try:
            with self._backend.errors(self._name, self.key):
                for each in call:
                    if each.error_message:
                        yield answer_frames.write_error(each.error_message.replace(self.key, self._name))
                    elif each.infer_response.outputs:
                        is_last = each.infer_response.parameters["triton_final_response"].bool_param
                        yield answer_frames.write(_tensors(each.infer_response), {}, is_last=is_last)
        finally:
            call.cancel()

    def close(self) -> None:
        """Have it unloaded; returns when it is gone from the server."""
        self._backend.unload(self)


class TritonBackend:
    """The backend of format "triton"."""

    name = "triton"
    is_outside = True

    def __init__(self, binary: Path | None, folder: Path, *, timeout_s: float, load_timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.server = TritonServer(binary or Path("tritonserver"), folder)
        self.server.on_restart = self._load_again
        self._has_server = binary is not None
        self._load_timeout_s = load_timeout_s
        self._numbers = itertools.count(1)
        self._models: WeakSet[TritonModel] = WeakSet()
        self._lock = threading.Lock()
        self._loads = 0  # begun; a load that was the only one tells what it took

    def prepare(self) -> bool:
        """Start the server if it does not run; return whether this call did. Raises `LoadFailedError`."""
        return self.server.start()

    def outside_bytes(self) -> int:
        """Return what the server holds besides models, in bytes."""
        with self._lock:
            models = sum(each.held_bytes() for each in self._models)
        return max(0, self.server.held_bytes() - models)

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the files; raises `InvalidArtifactError` where there is no tritonserver."""
        if not self._has_server:
            wanted = (spec.triton or {}).get("backend") or (spec.triton or {}).get("platform")
            raise InvalidArtifactError(
                f"Model '{spec.name}' wants Triton's backend '{wanted}', which tritonserver alone runs, and there is "
                "none here: use the triton image, or set WHARF_TRITONSERVER to one."
            )
        return Footprint(2 * spec.bytes + _MODEL_BYTES, spec.bytes + _MODEL_BYTES)

    def load(self, spec: ModelSpec) -> TritonModel:
        """Lay the model into the repository, have it loaded, measure.

        Raises `LoadFailedError` with the server's words, `InsufficientMemoryError` for those that mean memory.
        """
        with self._lock:
            self._loads += 1
            turn = self._loads
        before_bytes = self.server.held_bytes()
        key = self._lay(spec)
        try:
            self._load(spec.name, key)
            grown_bytes = self.server.held_bytes() - before_bytes
            predicted = self.footprint(spec).resident_bytes
            held_bytes = grown_bytes if turn == self._loads and grown_bytes > 0 else predicted
            with self.errors(spec.name, key):
                model = TritonModel(spec, key, self, held_bytes)
        except BaseException:
            self._clear(key)
            raise
        with self._lock:
            self._models.add(model)
        return model

    def metadata(self, key: str) -> Any:
        """Return what the server says of a model's tensors."""
        from tritonclient.grpc import service_pb2 as pb

        return self.server.stub().ModelMetadata(pb.ModelMetadataRequest(name=key), timeout=self.timeout_s)

    def unload(self, model: TritonModel) -> None:
        """Have a model unloaded and wait until it is; a server that is gone has nothing left to unload."""
        from tritonclient.grpc import service_pb2 as pb

        with self._lock:
            self._models.discard(model)
        try:
            with self.errors(model.key, model.key):
                stub = self.server.stub()
                stub.RepositoryModelUnload(
                    pb.RepositoryModelUnloadRequest(model_name=model.key), timeout=_UNLOAD_TIMEOUT_S
                )
                self._wait_until_gone(stub, model.key)
        except UnavailableError:
            log.info("event=unloaded_with_its_server model=%s", model.key)
        finally:
            self._clear(model.key)

    def close(self) -> None:
        """End the server."""
        self.server.close()
        shutil.rmtree(self.server.repository, ignore_errors=True)

    @contextlib.contextmanager
    def errors(self, name: str, key: str) -> Iterator[None]:
        """Turn what gRPC raises into an error of ours, with the name that people know."""
        import grpc

        try:
            yield
        except grpc.RpcError as error:
            raise _error(error, name, key) from None
        except ValueError:  # "Cannot invoke RPC on closed channel!"
            raise UnavailableError("tritonserver is being started again: try again.") from None

    def _lay(self, spec: ModelSpec) -> str:
        """Make the model's folder in the repository, of links to its files; return its name there."""
        key = f"{next(self._numbers)}-{re.sub(r'[^0-9A-Za-z._]', '_', spec.name)[:80]}"
        folder, source = self.server.repository / key, spec.folder or spec.file.parent
        folder.mkdir()
        for entry in source.iterdir():
            if entry.name != spec.file.name:
                (folder / entry.name).symlink_to(entry)
        text = spec.file.read_text()
        # The field's name is the folder's by default, and must be the folder's.
        (folder / spec.file.name).write_text(_without_name(text))
        return key

    def _load(self, name: str, key: str) -> None:
        from tritonclient.grpc import service_pb2 as pb

        with self.errors(name, key):
            stub = self.server.stub(self._load_timeout_s)
            try:
                stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=key), timeout=self._load_timeout_s)
            except Exception as error:
                raise _load_error(error, name, key) from None

    def _load_again(self) -> None:
        """Load what was loaded in a server that died; what fails is logged, and its requests say so."""
        with self._lock:
            models = list(self._models)
        for model in models:
            try:
                self._load(model.key, model.key)
                log.info("event=loaded_again model=%s", model.key)
            except ServingError as error:
                log.error("event=not_loaded_again model=%s error=%s", model.key, quoted(error.message))
                model.withdraw(error.message)

    def _wait_until_gone(self, stub: Any, key: str) -> None:
        from tritonclient.grpc import service_pb2 as pb

        deadline = time.monotonic() + _UNLOAD_TIMEOUT_S
        while time.monotonic() < deadline:
            index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=False), timeout=_UNLOAD_TIMEOUT_S)
            states = [each.state for each in index.models if each.name == key]
            if all(state in ("", "UNAVAILABLE") for state in states):
                return
            time.sleep(_POLL_S)
        raise UnavailableError(f"tritonserver has not unloaded '{key}' within {_UNLOAD_TIMEOUT_S:g} s.")

    def _clear(self, key: str) -> None:
        shutil.rmtree(self.server.repository / key, ignore_errors=True)


def _without_name(text: str) -> str:
    """Return a config.pbtxt without its own name, which people's folders had and ours has not."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    config.ClearField("name")
    return str(text_format.MessageToString(config))


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(each.name, each.datatype, tuple(each.shape)) for each in tensors)


def _message(key: str, request: Request) -> Any:
    from tritonclient.grpc import service_pb2 as pb

    about = request.about
    message = pb.ModelInferRequest(model_name=key, id=str(about.get("id", "")))
    for name, array in (request.tensors or {}).items():
        message.inputs.add(name=name, datatype=json.datatype_of(array), shape=array.shape)
        message.raw_input_contents.append(to_bytes(array))
    for name in about.get("outputs", ()):
        message.outputs.add(name=name)
    flags = int(about.get("flags", 0))
    said = {
        **about.get("parameters", {}),
        **({"sequence_id": about["sequence_id"]} if about.get("sequence_id") else {}),
        **({"sequence_start": True} if flags & 1 else {}),
        **({"sequence_end": True} if flags & 2 else {}),
        **{
            ours: about[theirs]
            for ours, theirs in (("priority", "priority"), ("timeout", "timeout_us"))
            if about.get(theirs)
        },
    }
    for name, value in said.items():
        kind = {bool: "bool_param", int: "int64_param", float: "double_param"}.get(type(value), "string_param")
        setattr(message.parameters[name], kind, value if kind != "string_param" else str(value))
    return message


def _tensors(response: Any) -> Tensors:
    raw = list(response.raw_output_contents)  # each access would be a copy
    return {
        each.name: Unread(each.name, each.datatype, tuple(each.shape), memoryview(data)).read("", response.model_name)
        for each, data in zip(response.outputs, raw, strict=True)
    }


def _text(error: Any, name: str, key: str) -> str:
    """Return the server's words with the name that people know, and paths as they are in the model's folder."""
    text = str(error.details() or "tritonserver gave no reason.")
    return re.sub(rf"/\S*/{re.escape(key)}/", "", text).replace(key, name)


def _is_memory(error: Any, key: str) -> bool:
    """Say whether the words are about memory; a model's name that looks like them is not."""
    return _MEMORY.search(str(error.details() or "").replace(key, "")) is not None


def _error(error: Any, name: str, key: str) -> ServingError:
    """Return our error for a failed call of an inference."""
    import grpc

    text, code = _text(error, name, key), error.code()
    kinds: dict[Any, type[ServingError]] = {
        grpc.StatusCode.INVALID_ARGUMENT: BadRequestError,
        grpc.StatusCode.UNIMPLEMENTED: UnsupportedError,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
        # The model is not there, as the server has just been started again and has not come to it.
        grpc.StatusCode.NOT_FOUND: UnavailableError,
        grpc.StatusCode.CANCELLED: UnavailableError,
    }
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(f"Model '{name}': tritonserver died or is busy ({text}): try again.")
    if code not in kinds and _is_memory(error, key):
        return InsufficientMemoryError(text)
    return kinds.get(code, ModelFailedError)(text)


def _load_error(error: Any, name: str, key: str) -> ServingError:
    """Return our error for a failed load."""
    import grpc

    if isinstance(error, ServingError):
        return error
    if not isinstance(error, grpc.RpcError):
        return UnavailableError("tritonserver is being started again: try again.")
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return _error(error, name, key)
    if _is_memory(error, key):
        return InsufficientMemoryError(_text(error, name, key))
    text = _text(error, name, key)
    found = _REASON.search(text)
    return LoadFailedError(text, found[1] if found else "")
