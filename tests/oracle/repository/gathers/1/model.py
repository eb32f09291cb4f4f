"""COUNT is how many requests the call has, ROWS the rows of them all; -1 is an error of its own, -2 raises."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(each, "IN").as_numpy() for each in requests]
        if any((each == -2).any() for each in given):
            raise ValueError("one of them is a value that the model did not like")
        rows = sum(len(each) for each in given)
        return [self.answer(each, len(requests), rows) for each in given]

    def answer(self, given, count, rows):
        if (given == -1).any():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("an error of one of them"))
        numbers = {"COUNT": count, "ROWS": rows}
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, np.full((len(given), 1), number, np.int32)) for name, number in numbers.items()]
        )
