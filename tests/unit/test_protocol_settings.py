"""Trace and log settings that clients read and set."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from serving.errors import BadRequestError, ServingError
from serving.protocol_settings import LogSettings, TraceSettings

ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}


def record(level: int) -> logging.LogRecord:
    """Return a line of the log."""
    return logging.LogRecord("wharf", level, __file__, 1, "event=x", None, None)


def test_nothing_is_traced_until_somebody_asks() -> None:
    """The defaults are Triton's, as texts."""
    traces = TraceSettings()
    assert traces.get() == traces.get("m")
    assert (traces.get()["trace_level"], traces.get()["trace_rate"]) == (["OFF"], "1000")
    assert not traces.take("m")


def test_one_of_so_many_requests_is_traced_up_to_a_count() -> None:
    """`trace_rate` and `trace_count`."""
    traces = TraceSettings()
    traces.update({"trace_level": ["TIMESTAMPS"], "trace_rate": "3", "trace_count": "2"})
    assert [traces.take("m") for _ in range(12)] == [False, False, True] * 2 + [False] * 6


def test_a_model_may_have_settings_of_its_own() -> None:
    """Over those of all; null gives them back."""
    traces = TraceSettings()
    assert traces.update(ON, "m")["trace_level"] == ["TIMESTAMPS"]
    assert (traces.take("m"), traces.take("other")) == (True, False)

    traces.update({"trace_level": None, "trace_rate": None}, "m")

    assert traces.get("m") == traces.get()
    assert not traces.take("m")


def test_null_resets_a_setting_of_all() -> None:
    """To the default."""
    traces = TraceSettings()
    traces.update({**ON, "log_frequency": 5})
    assert traces.get()["log_frequency"] == "5"
    traces.update(dict.fromkeys(traces.get()))
    assert traces.get() == TraceSettings().get()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trace_speed": "1"}, "trace_speed"),
        ({"trace_level": ["TENSORS"]}, "TENSORS"),
        ({"trace_file": "/etc/passwd"}, "server's log"),
        ({"trace_mode": "opentelemetry"}, "trace_mode"),
        ({"trace_rate": "often"}, "wants a number"),
    ],
)
def test_what_cannot_be_had_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    """And nothing of the request is kept."""
    traces = TraceSettings()
    with pytest.raises(BadRequestError, match=words):
        traces.update({"trace_rate": "7", **changes})
    assert traces.get() == TraceSettings().get()


def test_levels_of_the_log_are_switched() -> None:
    """Each by its own switch; others stay."""
    switch = LogSettings()
    assert switch.update({"log_info": False})["log_info"] is False
    levels = (logging.INFO, logging.WARNING, logging.ERROR, logging.DEBUG)
    assert [switch.filter(record(each)) for each in levels] == [False, True, True, True]


def test_a_verbose_level_is_our_debug_level_as_long_as_it_lasts() -> None:
    """And the level before comes back."""
    before = logging.getLogger().level
    switch = LogSettings()
    switch.update({"log_verbose_level": 1})
    assert logging.getLogger().level == logging.DEBUG
    switch.update({"log_verbose_level": 0})
    assert logging.getLogger().level == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log_colour": True}, "log_colour"),
        ({"log_file": "/tmp/x"}, "standard error"),
        ({"log_format": "ISO8601"}, "standard error"),
        ({"log_info": "no"}, "wants a bool"),
        ({"log_verbose_level": True}, "wants a int"),
    ],
)
def test_a_log_setting_that_cannot_be_had_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    """And nothing is changed."""
    switch = LogSettings()
    with pytest.raises(ServingError, match=words):
        switch.update(changes)
    assert switch.get() == LogSettings().get()
