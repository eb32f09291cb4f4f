"""The class whose methods are the toolkit's default functions, for handlers that people derive from it.

It reads and writes through `decoder` and `encoder`. A model and its prediction have no default here, as in the toolkit:
the containers of each framework add them.
"""

from __future__ import annotations

from typing import Any

from . import decoder, encoder, errors, utils


class DefaultInferenceHandler:
    """The four default functions as methods."""

    def default_model_fn(self, model_dir: str) -> Any:
        """Raise `NotImplementedError`: what a model file is, the framework says."""
        raise NotImplementedError(f"No model_fn loads the model in '{model_dir}': give the script one.")

    def default_input_fn(self, input_data: Any, content_type: str) -> Any:
        """Return the body as an array; raises `UnsupportedFormatError` for another type."""
        return decoder.decode(input_data, content_type)

    def default_predict_fn(self, data: Any, model: Any) -> Any:
        """Raise `NotImplementedError`: how a model predicts, the framework says."""
        raise NotImplementedError(f"No predict_fn asks the {type(model).__name__}: give the script one.")

    def default_output_fn(self, prediction: Any, accept: str) -> tuple[Any, str]:
        """Return the prediction written as the first type of `accept` that can be, and that type."""
        for content_type in utils.parse_accept(accept):
            if content_type in encoder.SUPPORTED_CONTENT_TYPES:
                return encoder.encode(prediction, content_type), content_type
        raise errors.UnsupportedFormatError(accept, status_code=406)
