"""The bodies of the repository's routes: what comes with a load, what an unload and the index are to take.

Each is a function of a body's bytes. What is no object says nothing, as with Triton; texts and what is forgiven are
Triton's. Knows no model; `v2` calls it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from serving.codecs import v2_requests
from serving.codecs.v2 import ParseError
from serving.repository.overrides import Override

_FILE = "file:"


def read_load(body: bytes) -> Override | None:
    """Return what came with a load, None for nothing; raises `ParseError`."""
    parameters = read_object(body).get("parameters", {})
    if not isinstance(parameters, dict):
        raise ParseError("attempt to get members for non-object")
    for name in parameters:
        if name != "config" and not name.startswith(_FILE):
            raise ParseError("unexpected error on creating Triton parameter")
    texts = {name: _text(parameters[name]) for name in parameters}
    files = {name.removeprefix(_FILE): _content(name, text) for name, text in texts.items() if name != "config"}
    return Override(texts.get("config"), files) if texts else None


def read_unload(body: bytes) -> bool:
    """Say whether an ensemble's members are to go, too; what is no flag is none. Raises `ParseError`."""
    parameters = read_object(body).get("parameters")
    return isinstance(parameters, dict) and parameters.get("unload_dependents") is True


def read_index(body: bytes) -> bool:
    """Say whether only models that are ready are asked for; raises `ParseError`."""
    is_wanted = read_object(body).get("ready", False)
    if not isinstance(is_wanted, bool):
        raise ParseError("attempt to access JSON non-boolean as boolean")
    return is_wanted


def read_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body that may be empty; JSON that is no object has no members (Triton's way)."""
    found = v2_requests.load(body) if body else {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ParseError("attempt to access JSON non-string as string")
    return value


def _content(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ParseError(f"the content of '{name:.80}' is not base64: encode the file's bytes.") from None
