"""`inference.GRPCInferenceService`, as Triton has it, on the engine of `inference`.

Each method reads its message, has the engine do it and writes the answer; an error becomes a status in one place
(`calls`), of a stream's request an `error_message`. Methods of the repository want the admin token where one is set.
Knows no port and no thread: `listener` runs it. Its names are the protocol's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as pb

from serving import __version__
from serving.codecs.v2 import Question
from serving.errors import ServingError, UnsupportedError
from serving.grpc import messages, server_settings
from serving.grpc.calls import Calls, House, fault
from serving.inference import Answer, Inference
from serving.logs import about
from serving.shared_memory import Regions

# Triton's words.
_ONCE = "ModelInfer RPC doesn't support models with decoupled transaction policy"


def _refused(what: str) -> Callable[[Any, Any, Any], Any]:
    """Make a method that this server does not have."""

    def method(service: Service, _request: Any, context: Any) -> Any:
        def refuse() -> Any:
            raise UnsupportedError(f"This server has no {what} over gRPC: see the extensions of its metadata.")

        return service.calls.answered(context, refuse)

    return method


def _refuse_repository_name(request: Any) -> None:
    if request.repository_name:
        raise UnsupportedError("'repository_name' specification is not supported")


def _streamed(answer: Answer, request: Any, question: Question, memory: Regions) -> Any:
    if answer.error is not None:
        return _refusal(answer.error.text, request)
    answer.parameters = answer.parameters | {messages.FINAL: answer.is_last}
    return pb.ModelStreamInferResponse(infer_response=messages.write(answer, question, memory))


def _refusal(text: str, request: Any) -> Any:
    response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    return pb.ModelStreamInferResponse(error_message=text, infer_response=response)


class Service:
    """The servicer; one call of a method is one thread."""

    def __init__(self, inference: Inference, house: House) -> None:
        self._inference = inference
        self._house = house
        self.calls = Calls(house)

    # ---- the server and its models ----------------------------------------------------------------------------------

    def ServerLive(self, _request: Any, _context: Any) -> Any:
        """Say that the process answers."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, _request: Any, _context: Any) -> Any:
        """Say what /ping says."""
        return pb.ServerReadyResponse(ready=self._house.is_ready())

    def ModelReady(self, request: Any, context: Any) -> Any:
        """Say whether a request for the model would be served."""
        return self.calls.answered(
            context,
            lambda: pb.ModelReadyResponse(
                ready=self._inference.catalog.is_ready(self._house.check_name(request.name), request.version)
            ),
        )

    def ServerMetadata(self, _request: Any, _context: Any) -> Any:
        """Return name, version and extensions."""
        return pb.ServerMetadataResponse(name="wharf", version=__version__, extensions=self._house.extensions)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        """Return a model's inputs and outputs."""
        return self._described(request, context, self._inference.metadata, pb.ModelMetadataResponse)

    def ModelConfig(self, request: Any, context: Any) -> Any:
        """Return a model's whole configuration."""

        def config(name: str, version: str) -> dict[str, Any]:
            return {"config": self._inference.config(name, version)}

        return self._described(request, context, config, pb.ModelConfigResponse)

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        """Return the statistics of a model, of all without a name."""

        def stats() -> Any:
            found = {"model_stats": self._inference.catalog.stats(request.name, request.version)}
            return json_format.ParseDict(found, pb.ModelStatisticsResponse(), ignore_unknown_fields=True)

        return self.calls.answered(context, stats)

    def _described(self, request: Any, context: Any, find: Callable[[str, str], dict[str, Any]], kind: Any) -> Any:
        def describe() -> Any:
            found = find(self._house.check_name(request.name), request.version)
            return json_format.ParseDict(found, kind(), ignore_unknown_fields=True)

        return self.calls.answered(context, describe, self.calls.managing)

    # ---- the repository ---------------------------------------------------------------------------------------------

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        """Return every model with its version and state."""

        def index() -> Any:
            self._authorize(context)
            return pb.RepositoryIndexResponse(models=self._inference.catalog.index(only_ready=request.ready))

        return self.calls.answered(context, index)

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        """Load a model, anew where it is loaded."""

        def load() -> Any:
            self._authorize(context)
            name = self._house.check_name(request.model_name)
            _refuse_repository_name(request)
            self._inference.catalog.load(name, messages.read_load(request.parameters))
            return pb.RepositoryModelLoadResponse()

        return self.calls.answered(context, load, self.calls.managing)

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        """Unload a model."""

        def unload() -> Any:
            self._authorize(context)
            _refuse_repository_name(request)
            name = self._house.check_name(request.model_name)
            self._inference.catalog.unload(name, with_members=messages.read_unload(request.parameters))
            return pb.RepositoryModelUnloadResponse()

        return self.calls.answered(context, unload, self.calls.managing)

    def _authorize(self, context: Any) -> None:
        given = next((value for key, value in context.invocation_metadata() if key == "authorization"), "")
        self._house.authorize(str(given))

    # ---- inference --------------------------------------------------------------------------------------------------

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """Answer one request."""
        return self.calls.answered(context, lambda: self._infer(request, context), self.calls.running)

    def _infer(self, request: Any, context: Any) -> Any:
        with self.calls.observed() as done:
            question, length = messages.read(request, self._inference.regions)
            question.is_left = lambda: not context.is_active()
            name = self._house.check_name(request.model_name)
            with self.calls.admitted(length):
                started = perf_counter()
                answer = self._inference.infer(name, request.model_version, question, once=_ONCE)
                done(perf_counter() - started)
                return messages.write(answer, question, self._inference.regions)

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        """Answer the requests of a stream one after the other, each as often as its model does."""
        request_id = self.calls.request_id()
        try:
            self.calls.streams.__enter__()
        except ServingError as error:
            context.abort(*fault(error, request_id))
        try:
            for request in requests:
                yield from self._responses(request, context, request_id)
        finally:
            self.calls.streams.__exit__()

    def _responses(self, request: Any, context: Any, request_id: str) -> Iterator[Any]:
        """Yield what answers one request; an error is one answer, and the stream goes on."""
        about.set((request_id, request.model_name))
        try:
            with self.calls.streamed, self.calls.observed():
                yield from self._streamed_answers(request, context)
        except Exception as error:
            yield _refusal(fault(error, request_id)[1], request)

    def _streamed_answers(self, request: Any, context: Any) -> Iterator[Any]:
        """Yield the answers, each with whether it is the last; where none was and the client asked, an empty one more.

        Ends when the client has left, which closes the model's own generator.
        """
        wants_last = messages.WANTS_FINAL in request.parameters and request.parameters[messages.WANTS_FINAL].bool_param
        question, length = messages.read(request, self._inference.regions)
        question.is_left = lambda: not context.is_active()
        name, version = self._house.check_name(request.model_name), request.model_version
        with self.calls.admitted(length):
            answers, is_over = self._inference.stream(name, version, question), False
            try:
                for answer in answers:
                    is_over = answer.is_last
                    yield _streamed(answer, request, question, self._inference.regions)
                    if not context.is_active():
                        return
            finally:
                getattr(answers, "close", lambda: None)()
        if wants_last and not is_over:
            last = pb.ModelInferResponse(model_name=name, id=request.id)
            last.parameters[messages.FINAL].bool_param = True
            yield pb.ModelStreamInferResponse(infer_response=last)

    # ---- settings and shared memory ---------------------------------------------------------------------------------

    def TraceSetting(self, request: Any, context: Any) -> Any:
        """Read trace settings, or change them."""
        return self._set(context, server_settings.trace, request, is_change=bool(request.settings))

    def LogSettings(self, request: Any, context: Any) -> Any:
        """Read log settings, or change them."""
        return self._set(context, server_settings.log, request, is_change=bool(request.settings))

    def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        """Describe the regions that clients registered."""
        return self._set(context, server_settings.memory_status, request, is_change=False)

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        """Register a region."""
        return self._set(context, server_settings.register_memory, request, is_change=True)

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        """Let go of a region, of all without a name."""
        return self._set(context, server_settings.unregister_memory, request, is_change=True)

    def _set(self, context: Any, method: Callable[[Inference, Any], Any], request: Any, *, is_change: bool) -> Any:
        def work() -> Any:
            if is_change:
                self._authorize(context)
            return method(self._inference, request)

        return self.calls.answered(context, work)

    # ---- what others have -------------------------------------------------------------------------------------------

    CudaSharedMemoryStatus = CudaSharedMemoryRegister = CudaSharedMemoryUnregister = _refused("shared memory of CUDA")
