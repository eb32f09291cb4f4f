"""Sum and difference: a model of Triton's Python backend."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""

    def initialize(self, args: dict[str, str]) -> None:
        """Look up the types of the outputs; `args["model_config"]` is config.pbtxt as JSON."""
        config = json.loads(args["model_config"])
        self.types = {each["name"]: pb_utils.triton_string_to_numpy(each["data_type"]) for each in config["output"]}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response for each request of a batch; one that is an error fails its request alone."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        first, second = (pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in ("INPUT0", "INPUT1"))
        with np.errstate(over="ignore"):
            results = {"OUTPUT0": first + second, "OUTPUT1": first - second}
        if not all(np.isfinite(array).all() for array in results.values()):
            message = "The sum or the difference is no finite number: send smaller ones."
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array.astype(self.types[name])) for name, array in results.items()]
        )

    def finalize(self) -> None:
        """Say goodbye when the model is unloaded."""
        pb_utils.Logger.log_info("sum and difference were unloaded")
