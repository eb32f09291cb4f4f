"""Triton's logger for models: one line an event to stderr, where the worker's log picks it up with the model's name.

Verbose lines are left out, as Triton leaves them out unless it was started with --log-verbose.
"""

from __future__ import annotations

import enum
import sys


class _Level(enum.Enum):
    """How grave a line is."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    VERBOSE = "VERBOSE"


class Logger:
    """Functions only: `Logger.log_info("...")`."""

    LogLevel = _Level
    INFO = _Level.INFO
    WARNING = _Level.WARNING
    ERROR = _Level.ERROR
    VERBOSE = _Level.VERBOSE

    @staticmethod
    def log(message: str, level: _Level = _Level.INFO) -> None:
        """Write `message` with its level."""
        if level is not _Level.VERBOSE:
            sys.stderr.write(f"{level.value} {message}\n")
            sys.stderr.flush()

    @staticmethod
    def log_info(message: str) -> None:
        """Write an INFO line."""
        Logger.log(message, _Level.INFO)

    @staticmethod
    def log_warn(message: str) -> None:
        """Write a WARNING line."""
        Logger.log(message, _Level.WARNING)

    @staticmethod
    def log_error(message: str) -> None:
        """Write an ERROR line."""
        Logger.log(message, _Level.ERROR)

    @staticmethod
    def log_verbose(message: str) -> None:
        """Leave out a VERBOSE line."""
        Logger.log(message, _Level.VERBOSE)
