"""Decoupled, for generate_stream: TEXT word by word, at most LIMIT of them; the word "wrong" is an error."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().reshape(-1)[0]
            limit = pb_utils.get_input_tensor_by_name(request, "LIMIT")
            count = 100 if limit is None else int(limit.as_numpy()[0])
            for word in text.split()[:count]:
                sender.send(self.response(word))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def response(self, word):
        if word == b"wrong":
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("a wrong word"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("WORD", np.array([word], np.object_))])
