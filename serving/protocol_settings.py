"""Trace and log settings of Triton's protocol: what clients read and set while the server runs.

Traces are lines of our log (`event=trace`), one for every `trace_rate` requests while the level is TIMESTAMPS, at most
`trace_count`; a model may have settings of its own. Log settings switch levels of our log. What cannot be had (a file
of the server's chosen by a client, tensors in a trace) is refused, with Triton's texts where it has one; what has no
effect is told in the log, by name. Values come with the right types: `http/v2_settings` and `grpc/server_settings` see
to that, each in its wire's words. `inference` asks whether to trace.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from serving.errors import BadRequestError, UnsupportedError

log = logging.getLogger("wharf.settings")

_TRACE_DEFAULTS: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
# The numbers that each may be, as Triton has them.
_RANGES = {"trace_rate": (0, 2**32 - 1), "trace_count": (-1, 2**31 - 1), "log_frequency": (0, 2**32 - 1)}
_NUMBER = re.compile(r"\s*([+-]?[0-9]{1,40})")
TRACE_NAMES = ("trace_level", *_RANGES)

_LOG_DEFAULTS: dict[str, Any] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
LOG_SWITCHES = ("log_info", "log_warning", "log_error")
# Lines carry ISO 8601 times in both; a client that sets one reads it back.
_LOG_FORMATS = ("default", "ISO8601")
_LEVELS = {logging.INFO: "log_info", logging.WARNING: "log_warning", logging.ERROR: "log_error"}


class TraceSettings:
    """Settings for all models, and of single models over them.

    `is_known` says whether a model is one, `whole` what it is called where it may be asked for by a shorter name.
    """

    def __init__(
        self, is_known: Callable[[str], bool] = lambda _: True, whole: Callable[[str], str] = lambda name: name
    ) -> None:
        self._is_known = is_known
        self._whole = whole
        self._lock = threading.Lock()
        self._settings: dict[str, dict[str, Any]] = {"": dict(_TRACE_DEFAULTS)}
        self._seen: dict[str, int] = {}
        self.is_on = False

    def get(self, model: str = "") -> dict[str, Any]:
        """Return the settings in force for a model, for all without one; values are texts, as Triton's."""
        model = self._known(model)
        with self._lock:
            return self._in_force(model)

    def update(self, changes: Mapping[str, Any], model: str = "") -> dict[str, Any]:
        """Change settings, a list of levels and texts; None resets one. Raises `BadRequestError` and changes nothing.

        A name that is none is no error, as with Triton; the log has it.
        """
        model = self._known(model)
        if "trace_file" in changes:
            raise UnsupportedError("trace file location can not be updated through network protocol")
        _warn_of_ignored("trace", changes, TRACE_NAMES)
        checked = {name: _checked(name, changes[name]) for name in TRACE_NAMES if name in changes}
        if checked.get("trace_level") == []:
            del checked["trace_level"]
        if checked.get("log_frequency", "0") != "0":
            log.warning("event=setting_without_effect name=log_frequency reason='a trace is written when it is made'")
        # Not of those that are gone: nobody could set theirs right.
        affected = [name for name in list(self._settings) if name and not model and self._is_known(name)]
        with self._lock:
            own = self._changed(model, checked)
            _refuse_no_rate(self._settings | {model: own}, [model, *affected])
            self._settings[model] = own
            if model and not own:
                del self._settings[model]
            self._seen.pop(model, None)
            self.is_on = any(each.get("trace_level", ["OFF"]) != ["OFF"] for each in self._settings.values())
            return self._in_force(model)

    def take(self, model: str) -> bool:
        """Say whether this request of a model, by its whole name, is one to trace; counts it.

        Models without settings of their own count together.
        """
        if not self.is_on:
            return False
        with self._lock:
            settings = self._in_force(model)
            if settings["trace_level"] == ["OFF"] or settings["trace_count"] == "0":
                return False
            whose = model if model in self._settings else ""
            seen = self._seen[whose] = self._seen.get(whose, 0) + 1
            rate = int(settings["trace_rate"])  # 0 for one that was gone when all were set
            if not rate or seen % rate:
                return False
            if settings["trace_count"] != "-1":  # what is read back is how many are left
                self._settings[whose]["trace_count"] = str(int(settings["trace_count"]) - 1)
            return True

    def _in_force(self, model: str) -> dict[str, Any]:
        return self._settings[""] | self._settings.get(model, {})

    def _changed(self, model: str, checked: Mapping[str, Any]) -> dict[str, Any]:
        own = self._settings.get(model, {}) | {name: value for name, value in checked.items() if value is not None}
        for name in (name for name, value in checked.items() if value is None):
            own.pop(name, None)
        return own if model else _TRACE_DEFAULTS | own

    def _known(self, model: str) -> str:
        """Return what its settings are kept under."""
        if model and not self._is_known(model):
            raise BadRequestError(f"Request for unknown model : {model}")
        return model and self._whole(model)


def _refuse_no_rate(settings: Mapping[str, dict[str, Any]], scopes: Collection[str]) -> None:
    """Refuse a rate of 0 where traces are on: for all, or for a model once its own are put over those of all."""
    for force in (settings[""] | settings.get(each, {}) for each in scopes):
        if force["trace_level"] != ["OFF"] and force["trace_rate"] == "0":
            raise BadRequestError("Attempting to set invalid trace setting :sample rate must be non-zero")


def _checked(name: str, value: Any) -> Any:
    """Return a value as it is kept; of levels those that are known."""
    if value is None:
        return None
    if name == "trace_level":
        return _levels(value)
    found, (least, most) = _NUMBER.fullmatch(value), _RANGES[name]
    if not found:
        raise BadRequestError(f"Unable to parse '{name}', got: {value}")
    number = int(found[1])
    if name == "trace_count" and number < least:
        raise BadRequestError(f"Unable to parse 'trace_count'. Expecting value >= -1, got: {number}")
    if not least <= number <= most:
        raise BadRequestError(f"Unable to parse '{name}', value is out of range [ {least}, {most} ], got: {number}")
    return str(number)


def _levels(texts: list[str]) -> list[str]:
    if "OFF" in texts and len(texts) > 1:
        raise BadRequestError("Expect only one trace level 'OFF' is specified")
    if "TENSORS" in texts:
        raise BadRequestError("trace_level TENSORS is not had here, traces are lines of the log: set TIMESTAMPS.")
    _warn_of_ignored("trace level", texts, ("OFF", "TIMESTAMPS"))
    return [each for each in ("OFF", "TIMESTAMPS") if each in texts]


def _warn_of_ignored(what: str, names: Collection[str], known: Collection[str]) -> None:
    for name in [name for name in names if name not in known][:9]:
        log.warning("event=setting_ignored what=%r name=%r known=%r", what, name[:40], " ".join(known))


class LogSettings(logging.Filter):
    """Switches for the levels of our log; a filter on its handler."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._settings = dict(_LOG_DEFAULTS)
        self._level_before: int | None = None

    def get(self) -> dict[str, Any]:
        """Return all settings."""
        return dict(self._settings)

    def update(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change settings; raises `BadRequestError` or `UnsupportedError` and changes nothing.

        A name that is none is no error, as with Triton; the log has it.
        """
        if "log_file" in changes:
            raise UnsupportedError("log file location can not be updated through network protocol")
        _warn_of_ignored("log", changes, _LOG_DEFAULTS)
        known = {name: value for name, value in changes.items() if name in _LOG_DEFAULTS}
        if known.get("log_format", "default") not in _LOG_FORMATS:
            raise BadRequestError(f"invalid argument for log_format, got: {known['log_format']}")
        if known.get("log_verbose_level", 0) >= 2**31:
            raise BadRequestError(f"log_verbose_level is {known['log_verbose_level']}: at most {2**31 - 1}.")
        with self._lock:
            self._settings.update(known)
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
