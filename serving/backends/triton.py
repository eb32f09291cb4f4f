"""Models that a tritonserver runs: what we cannot run ourselves (TensorRT, FIL, DALI ...), with our life cycle.

Each is laid into the server's repository under a name of its own, so that two archives that both hold a `resnet` live
side by side; texts that come back bear the name that people know. Requests travel over gRPC on loopback, their large
tensors by shared memory (`triton_call`). When the server died and was started again, what was loaded is loaded again;
until then requests are 503.
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
from serving.backends.triton_call import Caller
from serving.backends.triton_devices import device_footprint, has_process, kept_to
from serving.backends.triton_messages import (
    AGAIN,
    call_error,
    load_error,
    message_of,
    specs_of,
    tensors_of,
    without_name,
)
from serving.backends.triton_server import TritonServer
from serving.errors import (
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelFailedError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.logs import quoted
from serving.moves import Moves
from serving.repository.layouts import ModelSpec
from serving.tensors import Signature, Tensors
from serving.workers import answer_frames
from serving.workers.handler import Reply, Request
from serving.workers.plan import Alone, Host

log = logging.getLogger("wharf.tritonserver")

# A model of the Python backend is a process of some 42 MB (measured with 2.51); other brands' engines are as large as
# their files, and again while they are read.
_MODEL_BYTES = 48 << 20
_POLL_S = 0.005
# The platform waits 360 s; memory that is not back must not be given away before.
_UNLOAD_TIMEOUT_S = 300.0
_INTERRUPTED_MAX = 3


class TritonModel:
    """A model that is ready in the server; `key` is its name there."""

    is_outside = True
    takes_bodies = False
    threads = 1

    def __init__(self, spec: ModelSpec, key: str, backend: TritonBackend, held_bytes: int) -> None:
        self.key = key
        self.name = spec.name
        self._backend = backend
        self._held_bytes = held_bytes
        self._timeout_s = backend.timeout_s
        self._host: Host = Alone()
        self._withdrawn = ""  # why it is gone, said before anybody listened
        self.interrupted = 0  # loads after a death that another death cut off
        metadata = backend.metadata(key)
        self.signature = Signature(specs_of(metadata.inputs), specs_of(metadata.outputs))
        config = spec.triton or {}
        self._is_decoupled = bool(config.get("model_transaction_policy", {}).get("decoupled"))
        self._caller = Caller(key, self.signature.outputs, is_batching=int(config.get("max_batch_size", 0)) > 0)

    def held_bytes(self) -> int:
        """Return what its load added to the server's memory."""
        return self._held_bytes

    def device_bytes(self) -> None:
        """Leave the measuring to the loader: the device's use grew."""

    def attach(self, host: Host) -> None:
        """Take whom to tell that the model is beyond repair."""
        self._host = host
        if self._withdrawn:
            host.withdraw(self._withdrawn)

    def withdraw(self, reason: str) -> None:
        """Say that the model did not come back after the server's death."""
        self._withdrawn = f"Model '{self.name}' was not loaded again after tritonserver died: {reason}"
        self._host.withdraw(self._withdrawn)

    def run(self, inputs: Tensors) -> Tensors:
        """Compute the outputs by name; raises what `invoke` raises."""
        return self.invoke(Request(tensors=inputs), time.monotonic() + self._timeout_s).tensors or {}

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Answer a request's tensors before `deadline` (of the monotonic clock); a decoupled model answers in chunks.

        Raises `ModelFailedError` with the server's words, `UnavailableError` while it is started again.
        """
        with self._backend.errors(self.name, self.key):
            link = self._backend.server.link()
            if self._is_decoupled:
                if request.about.get("stream") != "tensors":
                    raise UnsupportedError(
                        f"Model '{self.name}' answers as often as it likes: call /v2/models/{self.name}/"
                        "generate_stream, or stream over gRPC."
                    )
                # By gRPC: a region is free when the answer is there, and what is the last of these is not known.
                timeout_s = max(0.001, deadline - time.monotonic())
                return Reply(chunks=self._stream(link.stub, message_of(self.key, request), timeout_s))
            return Reply(tensors=self._caller.call(link.stub, link.regions, request, deadline))

    def _stream(self, stub: Any, message: Any, timeout_s: float) -> Iterator[bytes]:
        call = stub.ModelStreamInfer(iter((message,)), timeout=timeout_s)
        try:
            with self._backend.errors(self.name, self.key):
                for each in call:
                    if each.error_message:
                        yield answer_frames.write_error(each.error_message.replace(self.key, self.name))
                    elif each.infer_response.outputs:
                        is_last = each.infer_response.parameters["triton_final_response"].bool_param
                        yield answer_frames.write(tensors_of(each.infer_response), {}, is_last=is_last)
        finally:
            call.cancel()

    def close(self) -> None:
        """Have it unloaded; returns when it is gone from the server."""
        self._backend.unload(self)


class TritonBackend:
    """The backend of format "triton"."""

    name = "triton"
    is_outside = True

    def __init__(
        self, binary: Path | None, folder: Path, *, timeout_s: float, load_timeout_s: float, shared_bytes: int = 0
    ) -> None:
        self.timeout_s = timeout_s
        self.server = TritonServer(binary or Path("tritonserver"), folder, shared_bytes)
        self.server.on_restart = self._load_again
        self._has_server = binary is not None
        self._load_timeout_s = load_timeout_s
        self._numbers = itertools.count(1)
        self._models: WeakSet[TritonModel] = WeakSet()
        self._lock = threading.Lock()
        self._moves = Moves()
        self._is_ending = False

    def prepare(self) -> bool:
        """Start the server if it does not run; return whether this call did. Raises `LoadFailedError`."""
        return self.server.start()

    def outside_bytes(self) -> int:
        """Return what the server holds besides models, in bytes, and what it may come to share with us."""
        with self._lock:
            models = sum(each.held_bytes() for each in self._models)
        return max(0, self.server.held_bytes() - models) + self.server.shared_bytes()

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the files; raises `InvalidArtifactError` where there is no tritonserver."""
        if not self._has_server:
            wanted = (spec.triton or {}).get("backend") or (spec.triton or {}).get("platform")
            raise InvalidArtifactError(
                f"Model '{spec.name}' wants Triton's backend '{wanted}', which tritonserver alone runs, and there is "
                "none here: use the triton image, or set WHARF_TRITONSERVER to one."
            )
        device_bytes, devices = device_footprint(spec)
        return Footprint(
            *(2 * spec.bytes + _MODEL_BYTES, spec.bytes + _MODEL_BYTES, device_bytes, device_bytes, devices),
            is_apart=has_process(spec),
        )

    def load(self, spec: ModelSpec) -> TritonModel:
        """Lay the model into the repository, have it loaded, measure.

        Raises `LoadFailedError` with the server's words, `InsufficientMemoryError` for those that mean memory.
        """
        key = f"{next(self._numbers)}-{re.sub(r'[^0-9A-Za-z._]', '_', spec.name)[:80]}"
        with self._moves.move() as move:
            before_bytes = self.server.held_bytes()
            try:
                self._lay(spec, key)
                with self.errors(spec.name, key):
                    link = self.server.link(self._load_timeout_s)
                    made = link.regions.made
                    self._load(spec.name, key, link.stub)
                    grown_bytes = self.server.held_bytes() - before_bytes
                    is_alone = self._moves.stood_still(move) and link.regions.made == made and grown_bytes > 0
                    held_bytes = grown_bytes if is_alone else self.footprint(spec).resident_bytes
                    model = TritonModel(spec, key, self, held_bytes)
            except (LoadFailedError, InsufficientMemoryError):  # it said no: nothing is there
                self._clear(key)
                raise
            except BaseException:
                threading.Thread(target=self._abandon, args=(key,), name="tritonserver-abandon", daemon=True).start()
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
        with self._lock:
            self._models.discard(model)
        if self._is_ending:  # the server ends with all that is in it
            return
        try:
            with self._moves.move():
                self._unload(model.key, _UNLOAD_TIMEOUT_S)
        except UnavailableError:
            log.info("event=unloaded_with_its_server model=%s", model.key)
        finally:
            self._clear(model.key)

    def end_soon(self) -> None:
        """Unload no model by itself any more: `close` ends all of them at once."""
        self._is_ending = True

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
            raise call_error(error, name, key) from None
        except ValueError as error:
            if "closed channel" not in str(error):  # "Cannot invoke RPC on closed channel!"
                raise
            raise UnavailableError(AGAIN) from None

    def _lay(self, spec: ModelSpec, key: str) -> None:
        """Make the model's folder in the repository, of links to its files."""
        folder, source = self.server.repository / key, spec.folder or spec.file.parent
        folder.mkdir()
        for entry in source.iterdir():
            if entry.name != spec.file.name:
                (folder / entry.name).symlink_to(entry)
        text = spec.file.read_text()
        # The field's name is the folder's by default, and must be the folder's.
        (folder / spec.file.name).write_text(kept_to(without_name(text), spec))

    def _load(self, name: str, key: str, stub: Any) -> None:
        from tritonclient.grpc import service_pb2 as pb

        try:
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=key), timeout=self._load_timeout_s)
        except Exception as error:
            raise load_error(error, name, key) from None

    def _load_again(self) -> None:
        """Load what was loaded in a server that died; what fails is taken out, and its requests hear why.

        A server that dies again meanwhile ends this: the next one's start begins anew. Three times, and the model that
        was being loaded then is taken for the cause.
        """
        try:
            stub = self.server.stub()
        except UnavailableError:
            return
        with self._lock:
            models = list(self._models)
        for model in models:
            with self._lock:
                if model not in self._models:  # unloaded meanwhile
                    continue
            try:
                self._load(model.name, model.key, stub)
                log.info("event=loaded_again model=%s", model.key)
            except UnavailableError as error:
                model.interrupted += 1
                if model.interrupted >= _INTERRUPTED_MAX:
                    model.withdraw(error.message)
                return
            except ServingError as error:
                log.error("event=not_loaded_again model=%s error=%s", model.key, quoted(error.message))
                model.withdraw(error.message)

    def _abandon(self, key: str) -> None:
        """Unload what nobody waits for any more; a load that is under way goes first."""
        timeout_s = max(self._load_timeout_s, _UNLOAD_TIMEOUT_S)
        try:
            self.server.stub(timeout_s)
            self._unload(key, timeout_s)
        except ServingError as error:
            log.warning("event=not_abandoned model=%s error=%s", key, quoted(error.message))
        finally:
            self._clear(key)

    def _unload(self, key: str, timeout_s: float) -> None:
        """Have a model unloaded and wait until it is gone; raises `ModelFailedError` when it is not in time."""
        from tritonclient.grpc import service_pb2 as pb

        deadline = time.monotonic() + timeout_s
        with self.errors(key, key):
            stub = self.server.stub()
            stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=key), timeout=timeout_s)
            while time.monotonic() < deadline:
                index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=False), timeout=timeout_s)
                states = [each.state for each in index.models if each.name == key]
                if all(state in ("", "UNAVAILABLE") for state in states):
                    return
                time.sleep(_POLL_S)
        raise ModelFailedError(f"tritonserver has not unloaded '{key}' within {timeout_s:g} s: its memory may be lost.")

    def _clear(self, key: str) -> None:
        shutil.rmtree(self.server.repository / key, ignore_errors=True)
