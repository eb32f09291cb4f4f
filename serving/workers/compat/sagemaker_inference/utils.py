"""Small helpers of the toolkit that scripts call: files, and what headers say.

The name is the interface's. It knows nothing of the other modules; `default_inference_handler` and people's scripts
call it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONTENT_TYPE_REGEX = re.compile("^[Cc]ontent-?[Tt]ype")


def read_file(path: str, mode: str = "r") -> Any:
    """Return what a file holds: text, or bytes where the mode says so."""
    with Path(path).open(mode) as file:
        return file.read()


def write_file(path: str, data: Any, mode: str = "w") -> None:
    """Write data to a file."""
    with Path(path).open(mode) as file:
        file.write(data)


def retrieve_content_type_header(request_property: Mapping[str, str]) -> str | None:
    """Return the Content-Type of headers in whichever of four spellings, None without one."""
    return next((value for name, value in request_property.items() if CONTENT_TYPE_REGEX.match(name)), None)


def parse_accept(accept: str) -> list[str]:
    """Return the types of an Accept header, in its order."""
    return accept.replace(" ", "").split(",")


def remove_crlf(illegal_string: str) -> str:
    """Return a text that may be a header: line breaks become spaces."""
    return illegal_string.replace("\r", " ").replace("\n", " ")
