"""The response that scripts of the older toolkit return from output_fn or transform_fn.

There it is Flask's with two defaults changed; here it is the part of it that a script can use, without Flask, which a
model's own interpreter may lack. `sagemaker_context.reply` takes it apart, and Flask's own in the same way. The
toolkit's Worker and Request, which are a server's parts, are not here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from .content_types import JSON

_WHOLE = (str, bytes, bytearray, memoryview)
_PHRASES = {each.value: each.phrase for each in HTTPStatus}


class Response:
    """A body with its status, headers and type; JSON's where none is given, as `accept` is ignored."""

    default_mimetype = JSON

    def __init__(  # noqa: PLR0913  the interface's
        self,
        response: Any = None,
        accept: str | None = None,
        status: Any = 200,
        headers: Any = None,
        mimetype: str | None = None,
        direct_passthrough: bool = False,
    ) -> None:
        """Take str, bytes, an iterable of them, or nothing; `status` is a number or "404 Not Found".

        A type among the headers is kept where `mimetype` is not given. Text has utf-8 added to its type.
        """
        if accept:
            warnings.warn("Response takes no accept: give it as mimetype.", DeprecationWarning, stacklevel=2)
        self.response: Any = b"" if response is None else response
        self.status = status
        self.headers: dict[str, str] = dict(headers.items() if isinstance(headers, Mapping) else headers or ())
        self.direct_passthrough = direct_passthrough
        given = next((self.headers.pop(name) for name in list(self.headers) if name.lower() == "content-type"), None)
        kind = mimetype or given or self.default_mimetype
        self.content_type = f"{kind}; charset=utf-8" if kind.startswith("text/") and ";" not in kind else kind

    @property
    def status(self) -> str:
        """Return the status as HTTP's first line has it."""
        return self._status

    @status.setter
    def status(self, value: Any) -> None:
        code = value if isinstance(value, int) else int(str(value).split()[0])
        self._status = f"{code} {_PHRASES.get(code, 'Unknown').upper()}"

    @property
    def status_code(self) -> int:
        """Return the status as a number."""
        return int(self._status.split()[0])

    @status_code.setter
    def status_code(self, value: int) -> None:
        self.status = value

    @property
    def content_type(self) -> str:
        """Return the Content-Type with its parameters."""
        return self.headers["Content-Type"]

    @content_type.setter
    def content_type(self, value: str) -> None:
        self.headers["Content-Type"] = value

    @property
    def mimetype(self) -> str:
        """Return the Content-Type without its parameters."""
        return self.content_type.partition(";")[0].strip()

    @property
    def is_streamed(self) -> bool:
        """Tell whether the body comes piece by piece and has no length yet."""
        return not isinstance(self.response, (str, bytes, bytearray, memoryview, list, tuple))

    def get_data(self, as_text: bool = False) -> Any:
        """Return the whole body as bytes, or as text; what is streamed is read to its end and kept."""
        pieces: Iterable[Any] = [self.response] if isinstance(self.response, _WHOLE) else self.response
        self.response = b"".join(each.encode() if isinstance(each, str) else bytes(each) for each in pieces)
        return self.response.decode() if as_text else self.response

    def set_data(self, value: Any) -> None:
        """Replace the body."""
        self.response = value

    @property
    def data(self) -> Any:
        """Return the whole body as bytes."""
        return self.get_data()

    @data.setter
    def data(self, value: Any) -> None:
        self.set_data(value)
