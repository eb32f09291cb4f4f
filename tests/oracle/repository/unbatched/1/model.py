"""A model without batching: SUMS has the sum of each row."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        rows = [pb_utils.get_input_tensor_by_name(each, "ROWS").as_numpy() for each in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SUMS", each.sum(axis=1))]) for each in rows]
