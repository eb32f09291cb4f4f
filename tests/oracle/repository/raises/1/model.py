"""MODE 0 raises, 1 raises TritonModelException, 2 answers too few, 4 takes 2 s; from 10 on an error has a code."""

import time

import triton_python_backend_utils as pb_utils

CODES = ("UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED")


class TritonPythonModel:
    def execute(self, requests):
        modes = [int(pb_utils.get_input_tensor_by_name(each, "MODE").as_numpy()[0]) for each in requests]
        if 0 in modes:
            raise ValueError("a value that the model did not like")
        if 1 in modes:
            raise pb_utils.TritonModelException("an exception of Triton's own")
        if 2 in modes:
            return []
        if 4 in modes:
            time.sleep(2)
        return [self.error(mode) for mode in modes]

    def error(self, mode):
        if mode in (3, 4):
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("an error without a code"))
        name = CODES[mode - 10]
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(f"an error {name}", getattr(pb_utils.TritonError, name))
        )
