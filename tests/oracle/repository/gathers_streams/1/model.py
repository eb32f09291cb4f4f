"""Answers each request as often as it says with how many requests the call has."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for _ in range(int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0])):
                count = pb_utils.Tensor("COUNT", np.full((1, 1), len(requests), np.int32))
                sender.send(pb_utils.InferenceResponse([count]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
