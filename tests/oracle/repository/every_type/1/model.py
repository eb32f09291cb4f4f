"""Each input comes back as the output of its name: IN_FP32 as OUT_FP32."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(self.outputs(request)) for request in requests]

    def outputs(self, request):
        inputs = sorted(request.inputs(), key=lambda each: each.name())
        return [pb_utils.Tensor(each.name().replace("IN_", "OUT_"), each.as_numpy()) for each in inputs]
