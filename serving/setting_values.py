"""How the text of a setting becomes a value: bytes, shares, seconds, ports, words.

Each function reads one kind of text and raises ValueError or KeyError where it cannot. Knows no setting by name:
`settings` says which variable is read how, and what was wanted; wharf.toml's bytes are read here, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?")


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a limit that is known only on the machine: `percent` of it."""

    percent: float


def parse_bytes(text: str) -> int:
    """Read `1073741824`, `512MiB`, `1.5 GiB`, `2g`; units are powers of 1,024. Raises ValueError."""
    match = _BYTES.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(text)
    value = float(match[1]) * (1 << 10 * " kmgt".index(match[2] or " "))
    if not 0 < value < 1 << 63:
        raise ValueError(text)
    return int(value)


def parse_budget(text: str) -> int | Share:
    """Read bytes (`parse_bytes`) or a share of the machine's limit (`80%`). Raises ValueError."""
    if not text.strip().endswith("%"):
        return parse_bytes(text)
    percent = float(text.strip()[:-1])
    if not 0 < percent <= 100:
        raise ValueError(text)
    return Share(percent)


def parse_flag(text: str) -> bool:
    """Read `true`, `1`, `yes`, `on` and their opposites. Raises KeyError."""
    values = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    return values[text.strip().lower()]


def parse_bytes_or_off(text: str) -> int:
    """Read bytes (`parse_bytes`); `off` and `0` are none. Raises ValueError."""
    return 0 if text.strip().lower() in ("off", "0") else parse_bytes(text)


def parse_count(text: str) -> int:
    """Read a whole number above 0. Raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def parse_seconds(text: str) -> float:
    """Read a number above 0 and below a million. Raises ValueError."""
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError(text)
    return value


def parse_port(text: str) -> int:
    """Read a port; 0 is any. Raises ValueError."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError(text)
    return value


def parse_port_range(text: str) -> tuple[int, int]:
    """Read two ports, `25000-25999`. Raises ValueError."""
    low, high = (parse_port(part) for part in text.split("-"))
    if low > high:
        raise ValueError(text)
    return low, high


def one_of(*words: str) -> Callable[[str], str]:
    """Return a function that reads one of these words, in capitals or not."""

    def parse(text: str) -> str:
        if text.strip().lower() not in words:
            raise ValueError(text)
        return text.strip().lower()

    return parse


def parse_names(text: str) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def parse_token(text: str) -> str:
    """Read a secret."""
    # A secret that comes from a file often ends in a line break.
    return text.strip()


def parse_log_level(text: str) -> str:
    """Read a level by its name or Python's number. Raises ValueError."""
    # SageMaker's name carries Python's numbers (20 is INFO).
    names = {"10": "debug", "20": "info", "30": "warning", "40": "error", "50": "critical", "warn": "warning"}
    return one_of(*names.values())(names.get(text.strip().lower(), text))
