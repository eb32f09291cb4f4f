"""The older toolkit's errors, which scripts raise, and catch around `encoders`.

`UnsupportedFormatError` has a status, which the SageMaker dialect answers with; it knows the error by its class's name.
"""

from __future__ import annotations


class ClientError(Exception):
    """What is wrong on the side of the script or its data."""


class UnsupportedFormatError(Exception):
    """A type that is neither read nor written without a function of the script's own: 415, or 406 for an Accept."""

    def __init__(self, content_type: str | None, status_code: int = 415) -> None:
        """Say which type it is and what to do."""
        self.status_code = status_code
        self.message = (
            f"The type '{str(content_type)[:200]}' has no default: give the script an input_fn that reads it, or an "
            "output_fn that writes it."
        )
        super().__init__(self.message)
