"""How requests of one model wait and are batched: what config.pbtxt says of it, as values.

Semantics are Triton's (model_config.proto: ModelDynamicBatching, ModelQueuePolicy, ModelInstanceGroup). `config_pbtxt`
reads them, `batching` acts on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """One priority's queue: `timeout_us` 0 is none, `max_queue_size` 0 is no limit of its own.

    A request past its timeout is rejected, or, where `is_delayed`, served after all others. `may_override`: a request's
    own timeout applies where it is shorter than `timeout_us`, and never where that is none.
    """

    timeout_us: int = 0
    is_delayed: bool = False
    may_override: bool = False
    max_queue_size: int = 0


@dataclass(frozen=True, slots=True)
class Scheduling:
    """The scheduler of a model. `max_batch_size` 0: shapes are literal, requests are never merged.

    `is_dynamic`: requests are merged up to `max_batch_size` rows. `preferred` sizes are sent at once, others when the
    oldest request has waited `max_queue_delay_us` (0: whatever waits when an instance is free). Priorities run from 1
    (first) to `priority_levels` (0: there are none); a request without one has `default_priority`.
    """

    max_batch_size: int = 0
    is_dynamic: bool = False
    preferred: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority: int = 0
    default_policy: QueuePolicy = field(default_factory=QueuePolicy)
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    instances: int = 1
