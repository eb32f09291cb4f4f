"""Trace and log settings that clients read and set."""

from __future__ import annotations

import logging
import re
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
    """`trace_rate` and `trace_count`, of which what is left is read back."""
    traces = TraceSettings()
    traces.update({"trace_level": ["TIMESTAMPS"], "trace_rate": "3", "trace_count": "2"})
    assert [traces.take("m") for _ in range(4)] == [False, False, True, False]
    assert traces.get()["trace_count"] == "1"
    assert [traces.take("m") for _ in range(8)] == [False, True] + [False] * 6
    assert traces.get("m")["trace_count"] == "0"


def test_models_count_together_until_they_have_settings_of_their_own() -> None:
    """As Triton has it."""
    traces = TraceSettings()
    traces.update({"trace_level": ["TIMESTAMPS"], "trace_rate": "2", "trace_count": "9"})
    assert [traces.take("a"), traces.take("b")] == [False, True]
    traces.update({"trace_rate": "1"}, "b")
    assert [traces.take("b"), traces.take("b"), traces.take("a")] == [True, True, False]
    assert (traces.get()["trace_count"], traces.get("b")["trace_count"]) == ("8", "6")


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
    traces.update({**ON, "log_frequency": "5"})
    assert traces.get()["log_frequency"] == "5"
    traces.update(dict.fromkeys(("trace_level", "trace_rate", "log_frequency")))
    assert traces.get() == TraceSettings().get()
    assert not traces.is_on


def test_a_model_that_nobody_knows_has_no_settings() -> None:
    """Neither read nor set."""
    traces = TraceSettings(lambda name: name == "m")
    assert traces.get("m") == traces.get()
    with pytest.raises(BadRequestError, match="^Request for unknown model : nope$"):
        traces.get("nope")
    with pytest.raises(BadRequestError, match="^Request for unknown model : nope$"):
        traces.update(ON, "nope")


RANGE = "Unable to parse '{}', value is out of range [ {}, {} ], got: {}"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"trace_level": ["TENSORS"]}, "trace_level TENSORS is not had here"),
    ({"trace_level": ["OFF", "TIMESTAMPS"]}, "Expect only one trace level 'OFF' is specified"),
    ({"trace_level": ["TIMESTAMPS"], "trace_rate": "0"}, "invalid trace setting :sample rate must be non-zero"),
    ({"trace_file": "/etc/passwd"}, "trace file location can not be updated through network protocol"),
    ({"trace_file": None}, "trace file location can not be updated through network protocol"),
    ({"trace_rate": "often"}, "Unable to parse 'trace_rate', got: often"),
    ({"trace_rate": "7x"}, "Unable to parse 'trace_rate', got: 7x"),
    ({"log_frequency": ""}, "Unable to parse 'log_frequency', got: "),
    ({"trace_rate": "-1"}, RANGE.format("trace_rate", 0, 2**32 - 1, -1)),
    ({"trace_rate": str(2**32)}, RANGE.format("trace_rate", 0, 2**32 - 1, 2**32)),
    ({"trace_count": str(2**31)}, RANGE.format("trace_count", -1, 2**31 - 1, 2**31)),
    ({"trace_count": "-2"}, "Unable to parse 'trace_count'. Expecting value >= -1, got: -2"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_cannot_be_had_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    """And nothing of the request is kept."""
    traces = TraceSettings()
    with pytest.raises(ServingError, match=re.escape(words)):
        traces.update({"trace_rate": "7", **changes})
    assert traces.get() == TraceSettings().get()


def test_a_rate_of_none_is_refused_where_any_model_would_have_it() -> None:
    """Of all while a model has traces of its own, and of a model that is off before all are traced."""
    traces = TraceSettings()
    traces.update({"trace_level": ["TIMESTAMPS"]}, "m")
    with pytest.raises(BadRequestError, match="sample rate must be non-zero"):
        traces.update({"trace_rate": "0"})
    assert [traces.get()["trace_rate"], traces.take("m")] == ["1000", False]

    traces = TraceSettings()
    traces.update({"trace_rate": "0"}, "m")
    with pytest.raises(BadRequestError, match="sample rate must be non-zero"):
        traces.update(ON)
    assert not traces.is_on


def test_a_model_that_is_gone_does_not_keep_others_from_being_traced() -> None:
    """Nobody could set its own right; it is not traced when it comes back, and has no error."""
    known = {"m"}
    traces = TraceSettings(lambda name: name in known)
    traces.update({"trace_rate": "0"}, "m")
    known.clear()
    assert traces.update(ON)["trace_rate"] == "1"
    assert [traces.take("other"), traces.take("m")] == [True, False]


@pytest.mark.parametrize("changes", [{"trace_mode": "opentelemetry"}, {"nonsense": ["1"]}, {"trace_level": ["ALL"]}])
def test_what_is_none_changes_nothing_and_is_in_the_log(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Triton says nothing of it to the client; we say it to the operator."""
    traces = TraceSettings()
    traces.update(ON)
    assert traces.update(changes) == traces.get()
    assert (traces.get()["trace_level"], traces.get()["trace_mode"]) == (["TIMESTAMPS"], "triton")
    assert "event=setting_ignored" in caplog.text


def test_a_frequency_has_no_effect_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """There is no file that it could rotate."""
    TraceSettings().update({"log_frequency": "0"})
    assert not caplog.text
    TraceSettings().update({"log_frequency": "5"})
    assert "event=setting_without_effect name=log_frequency" in caplog.text


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


LOG_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"log_file": "/tmp/x"}, "log file location can not be updated through network protocol"),
    ({"log_file": ""}, "log file location can not be updated through network protocol"),
    ({"log_format": "fancy"}, "invalid argument for log_format, got: fancy"),
    ({"log_verbose_level": 2**31}, "log_verbose_level is 2147483648: at most 2147483647"),
]


@pytest.mark.parametrize(("changes", "words"), LOG_REFUSED)
def test_a_log_setting_that_cannot_be_had_is_refused_in_words(changes: dict[str, Any], words: str) -> None:
    """And nothing is changed."""
    switch = LogSettings()
    with pytest.raises(ServingError, match=words):
        switch.update({"log_info": False, **changes})
    assert switch.get() == LogSettings().get()


def test_a_log_setting_that_is_none_is_in_the_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    """With the names that there are."""
    assert LogSettings().update({"log_colour": True}) == LogSettings().get()
    assert "event=setting_ignored what='log' name='log_colour'" in caplog.text


def test_a_format_of_times_is_read_back() -> None:
    """Our lines have ISO 8601 times in both."""
    assert LogSettings().update({"log_format": "ISO8601"})["log_format"] == "ISO8601"
