"""Two outputs to classify by: SCORE has labels (three for four classes), RANK none."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        scores = [pb_utils.get_input_tensor_by_name(each, "SCORES").as_numpy() for each in requests]
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("SCORE", each), pb_utils.Tensor("RANK", np.argsort(each, axis=-1).astype(np.int32))]
            )
            for each in scores
        ]
