"""The toolkit's errors, which scripts raise for a status of their choice and catch around `decode` and `encode`.

They know no HTTP beyond their status: the SageMaker dialect finds them by their class's name, here or in a real
toolkit, and answers with it.
"""

from __future__ import annotations


class UnsupportedFormatError(Exception):
    """A type that is neither read nor written without a function of the script's own: 415, or 406 for an Accept."""

    def __init__(self, content_type: str | None, status_code: int = 415) -> None:
        """Say which type it is and what to do."""
        self.status_code = status_code
        super().__init__(
            f"The type '{str(content_type)[:200]}' has no default: give the script an input_fn that reads it, or an "
            "output_fn that writes it."
        )


class BaseInferenceToolkitError(Exception):
    """A failure with a status: `message` travels to the client, `phrase` is kept for who reads it."""

    def __init__(self, status_code: int, message: str | None, phrase: str | None) -> None:
        """Take the status and its words."""
        self.status_code = status_code
        self.message = message
        self.phrase = phrase
        super().__init__(status_code, message, phrase)


class GenericInferenceToolkitError(BaseInferenceToolkitError):
    """The same with words of its own where none are given."""

    def __init__(self, status_code: int, message: str | None = None, phrase: str | None = None) -> None:
        """Fill in the words: the phrase is the message where there is none."""
        said = message or "Invalid Request"
        super().__init__(status_code, said, phrase or said)
