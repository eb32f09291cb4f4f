"""Errors as gRPC raises them, made by hand."""

from __future__ import annotations

import grpc


class Failed(grpc.RpcError):  # type: ignore[misc]
    """A call that ended with a status."""

    def __init__(self, code: grpc.StatusCode, text: str = "") -> None:
        super().__init__()
        self._code, self._text = code, text

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._code

    def details(self) -> str:
        """The words with it."""
        return self._text
