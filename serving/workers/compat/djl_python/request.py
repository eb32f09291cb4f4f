"""A request of text generation together with what was generated for it so far.

Old custom formatters are handed one; ours is a record that people's code may build and read.
"""

from __future__ import annotations

from .request_io import TextGenerationOutput, TextInput


class Request:
    """A request's input and its output."""

    def __init__(self, request_input: TextInput) -> None:
        self.id = request_input.request_id
        self.request_input = request_input
        self.request_output = TextGenerationOutput(request_id=self.id, input=request_input)
