"""What the caller says besides comes back as JSON in SAID, and a parameter of the response says how many there were."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.greeting = json.loads(args["model_config"])["parameters"]["greeting"]["string_value"]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        parameters = json.loads(request.parameters())
        said = {
            "greeting": self.greeting,
            "id": request.request_id(),
            "correlation_id": request.correlation_id(),
            "flags": request.flags(),
            "timeout": request.timeout(),
            "outputs": sorted(request.requested_output_names()),
            "parameters": parameters,
        }
        text = json.dumps(said, sort_keys=True).encode()
        outputs = [
            pb_utils.Tensor("SAID", np.array([text], np.object_)),
            pb_utils.Tensor("TEXT_OUT", pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()),
        ]
        return pb_utils.InferenceResponse(outputs)
