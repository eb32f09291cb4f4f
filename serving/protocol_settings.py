"""Trace and log settings of Triton's protocol: what clients read and set while the server runs.

Traces are lines of our log (`event=trace`), one for every `trace_rate` requests while the level is TIMESTAMPS, at most
`trace_count`; a model may have settings of its own. Log settings switch levels of our log. What cannot be had (a file
of the server's chosen by a client, tensors in a trace) is refused in words. `inference` asks whether to trace, the
wires read and set.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from serving.errors import BadRequestError, UnsupportedError

_TRACE_DEFAULTS: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
_NUMBERS = ("trace_rate", "trace_count", "log_frequency")
_LOG_DEFAULTS: dict[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
_LEVELS = {logging.INFO: "log_info", logging.WARNING: "log_warning", logging.ERROR: "log_error"}


class TraceSettings:
    """Settings for all models, and of single models over them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settings: dict[str, dict[str, Any]] = {"": dict(_TRACE_DEFAULTS)}
        self._seen: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self.is_on = False

    def get(self, model: str = "") -> dict[str, Any]:
        """Return the settings in force for a model, for all without one; values are texts, as Triton's."""
        with self._lock:
            return self._settings[""] | self._settings.get(model, {})

    def update(self, changes: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """Change settings; None resets one. Raises `BadRequestError` that names what is wrong."""
        checked = {name: None if value is None else _checked(name, value) for name, value in changes.items()}
        with self._lock:
            own = self._settings.setdefault(model, {})
            for name, value in checked.items():
                if value is not None:
                    own[name] = value
                elif model:
                    own.pop(name, None)
                else:
                    own[name] = _TRACE_DEFAULTS[name]
            self._seen.pop(model, None)
            self._written.pop(model, None)
            self.is_on = any("TIMESTAMPS" in each.get("trace_level", ()) for each in self._settings.values())
        return self.get(model)

    def take(self, model: str) -> bool:
        """Say whether this request is one to trace; counts it."""
        if not self.is_on:
            return False
        settings = self.get(model)
        if "TIMESTAMPS" not in settings["trace_level"]:
            return False
        rate, count = int(settings["trace_rate"]), int(settings["trace_count"])
        with self._lock:
            seen = self._seen[model] = self._seen.get(model, 0) + 1
            written = self._written.get(model, 0)
            if seen % max(1, rate) or (0 <= count <= written):
                return False
            self._written[model] = written + 1
            return True


def _checked(name: str, value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    texts = [str(each) for each in values]
    if name not in _TRACE_DEFAULTS:
        raise BadRequestError(f"request trace setting '{ascii(name[:40])}' is none: {', '.join(_TRACE_DEFAULTS)} are.")
    if name == "trace_level":
        if not set(texts) <= {"OFF", "TIMESTAMPS"}:
            raise BadRequestError(f"trace_level {texts[:4]} is not had here: OFF and TIMESTAMPS are.")
        return texts
    if name == "trace_file" and texts != [""]:
        raise BadRequestError("trace_file cannot be set by a client: traces go to the server's log (event=trace).")
    if name == "trace_mode" and texts != ["triton"]:
        raise BadRequestError("trace_mode cannot be set by a client: it is triton.")
    if name in _NUMBERS and not texts[0].removeprefix("-").isdigit():
        raise BadRequestError(f"{name} is '{texts[0][:40]}' and wants a number.")
    return texts[0]


class LogSettings(logging.Filter):
    """Switches for the levels of our log; a filter on its handler."""

    def __init__(self) -> None:
        super().__init__()
        self._settings = dict(_LOG_DEFAULTS)
        self._level_before: int | None = None

    def get(self) -> dict[str, Any]:
        """Return all settings."""
        return dict(self._settings)

    def update(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change settings; raises `BadRequestError` or `UnsupportedError` that names what is wrong."""
        for name, value in changes.items():
            if name not in _LOG_DEFAULTS:
                raise BadRequestError(f"log setting '{ascii(name[:40])}' is none: {', '.join(_LOG_DEFAULTS)} are.")
            if name in ("log_file", "log_format") and value != _LOG_DEFAULTS[name]:
                raise UnsupportedError(f"{name} cannot be set by a client: the log goes to standard error.")
            wanted = type(_LOG_DEFAULTS[name])
            if type(value) is not wanted:
                raise BadRequestError(f"{name} is {ascii(value)[:40]} and wants a {wanted.__name__}.")
        self._settings.update(changes)
        self._set_level()
        return self.get()

    def filter(self, record: logging.LogRecord) -> bool:
        """Let a line through unless its level is switched off."""
        name = _LEVELS.get(record.levelno)
        return name is None or bool(self._settings[name])

    def _set_level(self) -> None:
        """Make a verbose level above 0 our debug level, for as long as it lasts."""
        logger = logging.getLogger()
        if self._settings["log_verbose_level"] > 0 and self._level_before is None:
            self._level_before = logger.level
            logger.setLevel(logging.DEBUG)
        elif self._settings["log_verbose_level"] <= 0 and self._level_before is not None:
            logger.setLevel(self._level_before)
            self._level_before = None
