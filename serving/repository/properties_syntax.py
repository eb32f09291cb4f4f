"""The syntax of Java's .properties files, from text to keys and values.

`key = value`, `key: value` or `key value`; `#` and `!` begin a comment line; a backslash at a line's end continues it
and before a character escapes that. Unlike Java's reader this one strips blanks behind a value as well: people leave
them there, and `engine=MPI ` with one was an unknown engine. `serving_properties` calls it.
"""

from __future__ import annotations

import re

from serving.errors import InvalidArtifactError

# The key ends at the first =, : or blank that no backslash escapes; one = or : may follow the blanks.
_PAIR = re.compile(r"((?:\\.|[^\\=:\s])*)\s*[=:]?\s*(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_LINE_ENDS = re.compile(r"\r\n|\n|\r")
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def parse_properties(text: str) -> dict[str, str]:
    """Return keys and values, the last of a repeated key.

    Raises `InvalidArtifactError` for an unfinished escape of a code point.
    """
    found = {}
    for line in _logical_lines(text.removeprefix("\ufeff")):
        match = _PAIR.fullmatch(line)
        if match is not None and match[1]:
            found[_unescaped(match[1])] = _unescaped(match[2])
    return found


def _logical_lines(text: str) -> list[str]:
    lines, pending = [], ""
    for line in _LINE_ENDS.split(text):
        line = line.strip()  # noqa: PLW2901
        if not pending and line[:1] in ("", "#", "!"):
            continue
        slashes = len(line) - len(line.rstrip("\\"))
        if slashes % 2:
            pending += line[:-1]
        else:
            lines.append(pending + line)
            pending = ""
    return [*lines, pending] if pending else lines


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text)


def _character(match: re.Match[str]) -> str:
    escape = match[1]
    if len(escape) > 1:
        return chr(int(escape[1:], 16))
    if escape == "u":
        raise InvalidArtifactError(f"serving.properties has the escape {match[0]!r} and wants four hexadecimal digits.")
    return _NAMED.get(escape, escape)
