"""Queues, batches and instances of config.pbtxt as values."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.repository.config_pbtxt import read_config_pbtxt
from serving.repository.layouts import describe
from serving.repository.scheduling import QueuePolicy, Scheduling
from tests.unit.repository.written import write

pytest.importorskip("tritonclient")


def scheduling(folder: Path, text: str) -> Scheduling | None:
    (folder / "config.pbtxt").write_text(text)
    return read_config_pbtxt("m", folder / "config.pbtxt").scheduling


def test_all_of_the_batcher_is_read(tmp_path: Path) -> None:
    """Preferred sizes sorted, policies by priority, instances summed; a group without a count has one."""
    text = """
    max_batch_size: 8
    instance_group [{ count: 2 }, { }]
    dynamic_batching {
      preferred_batch_size: [8, 4] max_queue_delay_microseconds: 100 priority_levels: 3 default_priority_level: 2
      default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 allow_timeout_override: true }
      priority_queue_policy { key: 3 value { max_queue_size: 7 } }
    }
    """
    assert scheduling(tmp_path, text) == Scheduling(
        max_batch_size=8,
        is_dynamic=True,
        preferred=(4, 8),
        max_queue_delay_us=100,
        priority_levels=3,
        default_priority=2,
        default_policy=QueuePolicy(5, is_delayed=True, may_override=True),
        policies={3: QueuePolicy(max_queue_size=7)},
        instances=3,
    )


@pytest.mark.parametrize(
    ("text", "is_dynamic"),
    [("max_batch_size: 8", False), ("max_batch_size: 1 dynamic_batching { }", False), ("dynamic_batching { }", False),
     ("max_batch_size: 2 dynamic_batching { }", True)],
)  # fmt: skip
def test_requests_are_merged_only_where_two_fit(tmp_path: Path, text: str, is_dynamic: bool) -> None:
    """The batcher alone, or the batch alone, is not enough."""
    found = scheduling(tmp_path, text)
    assert found is not None
    assert found.is_dynamic is is_dynamic


def test_ordering_without_priorities_is_read(tmp_path: Path) -> None:
    """One level is none."""
    found = scheduling(tmp_path, "max_batch_size: 2 dynamic_batching { preserve_ordering: true }")
    assert found == Scheduling(2, is_dynamic=True, preserve_ordering=True)


def test_every_model_with_a_configuration_has_it(tmp_path: Path) -> None:
    """In process or in workers; others have none."""
    folder = write(tmp_path / "m", "1/model.onnx", config_pbtxt="max_batch_size: 3")
    assert describe("m", folder).scheduling == Scheduling(3)
    assert describe("n", write(tmp_path / "n", "model.onnx")).scheduling is None
