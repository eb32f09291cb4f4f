"""What a Python file defines, as far as its text tells: it is never imported, compiled or even parsed.

Python's own parser is no place for what strangers send: it takes a hundred times the text in memory, and deep nesting
may end the process. Lines that start a definition are enough to tell dialects apart; what they miss, a star import or a
definition in an `if`, is told by `Script.may_hide`. A file with a syntax error is told by the worker that loads it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_READ_MAX_BYTES = 1 << 20
"""The largest handlers in the wild have some 100 KB."""

# Each alternative takes an unfinished text to its end: every byte is looked at once, whatever a stranger writes.
_TEXTS = re.compile(
    r'#[^\n]*|"""(?:[^"\\]|\\.|"(?!""))*+(?:"""|\Z)|\'\'\'(?:[^\'\\]|\\.|\'(?!\'\'))*+(?:\'\'\'|\Z)', re.DOTALL
)
_DEFINED = re.compile(r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE)
_MODULE = re.compile(r"^[ \t]*(?:from|import)[ \t]+([\w.]+)", re.MULTILINE)
_TAKEN = re.compile(r"^[ \t]*from[ \t]+[\w.]+[ \t]+import[ \t]*(\([^()]*\)|[^\n]*)", re.MULTILINE)
_DECORATOR = re.compile(r"^@(?:\w+\.)*(\w+)", re.MULTILINE)
_INDENTED = re.compile(r"^(?:if|try|else|except|with)\b.*\n(?:[ \t].*\n|\n)*?[ \t]+def[ \t]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """Names of a file's top level: what it `defines` or imports, which `modules` it imports, its `decorators`.

    `may_hide` says that there may be more: a star import, or a function below an `if`.
    """

    names: frozenset[str]
    modules: frozenset[str]
    decorators: frozenset[str]
    may_hide: bool

    def defines(self, *names: str) -> bool:
        """Say whether one of `names` is there for sure."""
        return not self.names.isdisjoint(names)


def look(file: Path) -> Script:
    """Read the first MiB of `file` as text, whatever its bytes, and return what it defines."""
    with file.open("rb") as source:
        text = source.read(_READ_MAX_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")
    text = text.replace("\\\n", " ")  # a line that goes on
    text = _TEXTS.sub("", text)
    taken = [name for each in _TAKEN.findall(text) for name in _imported(each)]
    defined = [one or other for one, other in _DEFINED.findall(text)]
    return Script(
        frozenset((*defined, *taken)) - {"*"},
        frozenset(name.partition(".")[0] for name in _MODULE.findall(text)),
        frozenset(_DECORATOR.findall(text)),
        "*" in taken or _INDENTED.search(text) is not None,
    )


def _imported(clause: str) -> list[str]:
    return [part.split()[-1] for part in clause.strip("()").split(",") if part.split()]
