"""OUT is how many calls there were before; 1 takes 1.5 s, 0 begins to count anew."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    calls = 0

    def execute(self, requests):
        return [self.answer(int(pb_utils.get_input_tensor_by_name(each, "IN").as_numpy()[0, 0])) for each in requests]

    def answer(self, mode):
        if mode == 0:
            self.calls = 0
        if mode == 1:
            time.sleep(1.5)
        out = pb_utils.Tensor("OUT", np.array([[self.calls]], np.int32))
        self.calls += 1
        return pb_utils.InferenceResponse([out])
