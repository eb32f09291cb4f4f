"""The two errors of Triton's Python backend: the one that a response carries, and the one that is raised.

Knows their codes (TRITONSERVER_Error_Code); what a code becomes on the wire is the dialect's. Every file beside this
one raises from here.
"""

from __future__ import annotations


class TritonError:
    """An error for one response: a message and one of the codes below."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        if not isinstance(message, str):
            raise TypeError(f"TritonError has the message {message!r:.80} and wants a string.")
        if code not in range(8):
            raise TypeError(f"TritonError has the code {code!r:.80} and wants one of TritonError.UNKNOWN to CANCELLED.")
        self._message, self._code = message, code

    def message(self) -> str:
        """Return the message."""
        return self._message

    def code(self) -> int:
        """Return the code."""
        return self._code

    def __str__(self) -> str:
        return self._message


class TritonModelException(Exception):  # noqa: N818  the name that people's code catches
    """Raised by this module's functions, and by models that want a request to fail."""

    def message(self) -> str:
        """Return the message."""
        return str(self)
