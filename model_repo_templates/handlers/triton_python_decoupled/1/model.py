"""The primes up to a number: a decoupled model of Triton's Python backend, which answers as often as it likes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from math import isqrt
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Sends a response for each prime up to UP_TO, as soon as it is found."""

    def execute(self, requests: list[Any]) -> None:
        """Answer through each request's sender; the last word is the flag, with or without a response."""
        for request in requests:
            sender = request.get_response_sender()
            up_to = int(pb_utils.get_input_tensor_by_name(request, "UP_TO").as_numpy()[0])
            for prime in primes(up_to):
                if sender.is_cancelled():  # the client has left
                    break
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("PRIME", np.array([prime], np.int64))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def primes(up_to: int) -> Iterator[int]:
    """Yield the primes up to and with `up_to`, by dividing by those before."""
    found: list[int] = []
    for number in range(2, up_to + 1):
        small = found[: bisect_right(found, isqrt(number))]
        if all(number % prime for prime in small):
            found.append(number)
            yield number
