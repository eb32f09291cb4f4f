"""A request as models see it: inputs by name, and what came with them.

A worker's requests come from `triton_python`, which connects them to a mailbox for their answers; those that a model
makes itself, to call another model, cannot be executed and say so.
"""

from __future__ import annotations

import json
from typing import Any

from ._errors import TritonModelException
from ._memory import PreferredMemory
from ._models import no_other_models
from ._sender import InferenceResponseSender, Mailbox
from ._tensor import Tensor, tensor_by_name

TRITONSERVER_REQUEST_FLAG_SEQUENCE_START = 1
TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 2
TRITONSERVER_REQUEST_RELEASE_ALL = 1
TRITONSERVER_REQUEST_RELEASE_RESCHEDULE = 2

_dumps = json.dumps


class InferenceTrace:
    """A request's trace, of which this version keeps none."""

    def get_context(self) -> None:
        """Return None: there is no context."""


class InferenceRequest:
    """One request. Arguments and their order are Triton's."""

    def __init__(  # noqa: PLR0913
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        inputs: list[Tensor] | tuple[()] = (),
        requested_output_names: list[str] | tuple[()] = (),
        model_name: str = "",
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory | None = None,
        trace: InferenceTrace | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        self._request_id, self._correlation_id = request_id, correlation_id
        self._inputs, self._output_names = list(inputs), list(requested_output_names)
        self._model_name, self._model_version = model_name, model_version
        self._flags, self._timeout = flags, timeout
        self.preferred_memory = preferred_memory
        self._trace = trace
        self._parameters = parameters or {}
        self._mailbox: Mailbox | None = None
        self._sender: InferenceResponseSender | None = None

    def connect(self, mailbox: Mailbox) -> None:
        """Give the request a sender that fills `mailbox`; for the dialect."""
        self._mailbox, self._sender = mailbox, InferenceResponseSender(mailbox)

    def inputs(self) -> list[Tensor]:
        """Return the inputs."""
        return self._inputs

    def request_id(self) -> str:
        """Return the id, empty where the client gave none."""
        return self._request_id

    def correlation_id(self) -> int | str:
        """Return the id of the request's sequence, 0 where there is none."""
        return self._correlation_id

    def requested_output_names(self) -> list[str]:
        """Return the names of the outputs that are wanted."""
        return self._output_names

    def model_name(self) -> str:
        """Return the name of the model."""
        return self._model_name

    def model_version(self) -> int:
        """Return the version, -1 for any."""
        return self._model_version

    def flags(self) -> int:
        """Return the flags of its place in a sequence."""
        return self._flags

    def set_flags(self, flags: int) -> None:
        """Set the flags."""
        self._flags = flags

    def timeout(self) -> int:
        """Return the time that the request allows, in microseconds; 0 is any."""
        return self._timeout

    def parameters(self) -> str:
        """Return the parameters as a JSON object."""
        return _dumps(self._parameters)

    def trace(self) -> InferenceTrace:
        """Return the trace."""
        return self._trace or InferenceTrace()

    def set_release_flags(self, flags: int) -> None:
        """Accept that the request is released; raises `TritonModelException` for putting it back into the queue."""
        if flags != TRITONSERVER_REQUEST_RELEASE_ALL:
            raise TritonModelException(
                f"set_release_flags() has flags {flags}: this version does not run a request again; "
                "use TRITONSERVER_REQUEST_RELEASE_ALL and loop in execute()."
            )

    def get_response_sender(self) -> InferenceResponseSender:
        """Return the sender of this request's responses."""
        if self._sender is None or self._mailbox is None:
            raise TritonModelException("This request was made by the model itself: nobody waits for its responses.")
        self._mailbox.is_taken = True
        return self._sender

    def is_cancelled(self) -> bool:
        """Return True once the client has left."""
        return self._mailbox is not None and self._mailbox.is_cancelled

    def exec(self, decoupled: bool = False) -> Any:  # noqa: ARG002
        """Raise `TritonModelException`: a model calls no other."""
        no_other_models(f"Calling the model '{self._model_name}' from a model")

    def async_exec(self, decoupled: bool = False) -> Any:
        """Raise `TritonModelException`: a model calls no other."""
        return self.exec(decoupled)


def get_input_tensor_by_name(inference_request: InferenceRequest, name: str) -> Tensor | None:
    """Return the input of that name, or None."""
    return tensor_by_name(inference_request.inputs(), name)
