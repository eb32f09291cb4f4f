"""Trace and log settings: read, changed, and put back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle.clients import call
from tests.oracle.conftest import Same
from tests.oracle.servers import Target

TRACE: list[dict[str, Any]] = [
    {"trace_level": ["TIMESTAMPS"], "trace_rate": "500"},
    {"trace_count": "5", "log_frequency": "3"},
    {"trace_rate": "often"},
    {"trace_level": ["EVERYTHING"]},
    {"trace_mode": "opentelemetry"},
    {"nonsense": "1"},
]
LOG: list[dict[str, Any]] = [
    {"log_info": False, "log_verbose_level": 1},
    {"log_format": "ISO8601"},
    {"log_format": "fancy"},
    {"log_info": "yes"},
    {"log_verbose_level": -1},
    {"log_file": "here.log"},
    {"nonsense": True},
]
TRACE_BEFORE = {"trace_level": None, "trace_rate": None, "trace_count": None, "log_frequency": None}
LOG_BEFORE = {"log_info": True, "log_verbose_level": 0, "log_format": "default"}


@pytest.mark.parametrize("model", [None, "add_sub", "nope"])
def test_trace_settings(target: Target, same: Same, flavour: str, model: str | None) -> None:
    """The server's, a model's, an unknown model's."""
    same(call(target, flavour, "get_trace_settings", model_name=model))


@pytest.mark.parametrize("settings", TRACE, ids=lambda each: next(iter(each)))
@pytest.mark.parametrize("model", [None, "add_sub"])
def test_trace_settings_change(
    target: Target, same: Same, flavour: str, model: str | None, settings: dict[str, Any]
) -> None:
    """What a change answers, and what is true after it."""
    changed = call(target, flavour, "update_trace_settings", model_name=model, settings=settings)
    after = call(target, flavour, "get_trace_settings", model_name=model)
    call(target, flavour, "update_trace_settings", model_name=model, settings=TRACE_BEFORE)
    same({"changed": changed, "after": after, "reset": call(target, flavour, "get_trace_settings", model_name=model)})


def test_log_settings(target: Target, same: Same, flavour: str) -> None:
    """All of them."""
    same(call(target, flavour, "get_log_settings"))


@pytest.mark.parametrize("settings", LOG, ids=lambda each: "-".join(f"{key}={value}" for key, value in each.items()))
def test_log_settings_change(target: Target, same: Same, flavour: str, settings: dict[str, Any]) -> None:
    """What a change answers, and what is true after it."""
    changed = call(target, flavour, "update_log_settings", settings)
    after = call(target, flavour, "get_log_settings")
    call(target, flavour, "update_log_settings", LOG_BEFORE)
    same({"changed": changed, "after": after})
