"""A response as models make it: outputs, or an error.

It knows no request and no wire; models return it, or send it, and `triton_python` reads it.
"""

from __future__ import annotations

import json
from typing import Any

from ._errors import TritonError
from ._tensor import Tensor, tensor_by_name

_dumps = json.dumps


class InferenceResponse:
    """The answer to one request: outputs, or an error."""

    def __init__(
        self,
        output_tensors: list[Tensor] | tuple[()] = (),
        error: TritonError | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        for each in output_tensors:
            if not isinstance(each, Tensor):
                raise TypeError(f"InferenceResponse has an output of {type(each).__name__} and wants a Tensor.")
        if error is not None and not isinstance(error, TritonError):
            raise TypeError(f"InferenceResponse has an error of {type(error).__name__} and wants a TritonError.")
        self._outputs, self._error = list(output_tensors), error
        self._parameters = _dumps(parameters) if parameters else "{}"

    def output_tensors(self) -> list[Tensor]:
        """Return the outputs."""
        return self._outputs

    def has_error(self) -> bool:
        """Return True for an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """Return the error, or None."""
        return self._error

    def parameters(self) -> str:
        """Return the parameters as a JSON object."""
        return self._parameters


def get_output_tensor_by_name(inference_response: InferenceResponse, name: str) -> Tensor | None:
    """Return the output of that name, or None."""
    return tensor_by_name(inference_response.output_tensors(), name)
