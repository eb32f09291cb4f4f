"""The built-in handler that DJL had for DeepSpeed until 0.27: the Hugging Face one, its model split by AutoTP.

People name it as an entry point (`djl_python.deepspeed`). In one process there is nothing to split.
"""

from __future__ import annotations

from typing import Any

from .huggingface import HuggingFaceService
from .inputs import Input
from .outputs import Output


class DeepSpeedService(HuggingFaceService):
    """One pipeline over this rank's part."""

    def initialize(self, properties: dict[str, Any]) -> None:
        """Load as the parent does, by DeepSpeed whatever plans there are."""
        super().initialize({**properties, "split": "deepspeed"})


_service = DeepSpeedService()


def handle(inputs: Input) -> Output | None:
    """Load at the first call, answer requests at any other."""
    if not _service.initialized:
        _service.initialize(inputs.get_properties())
    return None if inputs.is_empty() else _service.inference(inputs)
