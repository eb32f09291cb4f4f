"""What config.pbtxt says of queues, batches and instances, checked and made a `Scheduling`.

The rules are Triton's (model_config_utils.cc: ValidateModelConfig, ValidateInstanceGroup). A figure that contradicts
another is refused by the name of its field; fields that nobody acts on are returned by name. `config_pbtxt` calls this
room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.scheduling import QueuePolicy, Scheduling
from serving.repository.triton_schema import enum_name, set_fields

_USED_OF_GROUP = frozenset(("name", "count", "kind"))
_CPU_KINDS = frozenset(("KIND_AUTO", "KIND_CPU", "KIND_MODEL"))

_MOST_INSTANCES = 1 << 10
_MOST_PRIORITIES = 1 << 16
# A day, in microseconds: longer than any platform waits for an answer.
_LONGEST_DELAY_US = 86_400_000_000


def read_scheduling(model: str, config: Any) -> Scheduling:
    """Return the scheduling of a `ModelConfig` message; raises `InvalidArtifactError` that names a wrong field."""
    most = config.max_batch_size
    if most < 0:
        raise _refused(model, "max_batch_size", most, "0 or more")
    instances = sum(_count(model, group) for group in config.instance_group) or 1
    if instances > _MOST_INSTANCES:
        raise _refused(model, "instance_group.count", instances, f"at most {_MOST_INSTANCES} instances in all")
    if not config.HasField("dynamic_batching"):
        return Scheduling(most, instances=instances)
    batching = config.dynamic_batching
    _check_sizes(model, batching, most)
    _check_priorities(model, batching)
    _check_ordering(model, batching)
    return Scheduling(
        max_batch_size=most,
        is_dynamic=most > 1,
        preferred=tuple(sorted(set(batching.preferred_batch_size))),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority=batching.default_priority_level if batching.priority_levels else 0,
        default_policy=_policy(batching.default_queue_policy),
        policies=_policies(batching),
        instances=instances,
    )


def idle_of_scheduling(config: Any, *, is_cpu: bool) -> list[str]:
    """Return the fields of the batcher and of the instance groups that nobody acts on."""
    idle = []
    batching = config.dynamic_batching
    if not batching.priority_levels:
        names = [name for name in ("default_priority_level", "priority_queue_policy") if getattr(batching, name)]
        idle += [f"dynamic_batching.{name}" for name in names]
    used = _USED_OF_GROUP if is_cpu or len(_gpus(config)) != 1 else _USED_OF_GROUP | {"gpus"}
    for group in config.instance_group:
        idle += [f"instance_group.{name}" for name in set_fields(group) if name not in used]
        if is_cpu and enum_name(group, "kind") not in _CPU_KINDS:
            idle.append("instance_group.kind")
    return idle


def device_of(config: Any) -> str | None:
    """Return where a model's instances are to run: "cpu", "cuda" or, of one GPU alone, "cuda:1".

    None (KIND_AUTO, KIND_MODEL, no groups) leaves it to the server, and several GPUs to the house: a model is on one.
    """
    kinds = {enum_name(group, "kind") for group in config.instance_group}
    if kinds == {"KIND_CPU"}:
        return "cpu"
    gpus = _gpus(config)
    if len(gpus) == 1:
        return f"cuda:{gpus[0]}"
    return "cuda" if gpus or "KIND_GPU" in kinds else None


def _gpus(config: Any) -> list[int]:
    return sorted({int(gpu) for group in config.instance_group for gpu in group.gpus})


def _count(model: str, group: Any) -> int:
    if group.count < 0:
        raise _refused(model, "instance_group.count", group.count, "1 or more")
    if group.gpus and enum_name(group, "kind") in ("KIND_CPU", "KIND_MODEL"):
        raise _refused(model, "instance_group.gpus", list(group.gpus), f"none beside {enum_name(group, 'kind')}")
    return max(1, int(group.count))  # one, where it is left out


def _check_sizes(model: str, batching: Any, most: int) -> None:
    for size in batching.preferred_batch_size:
        if not 0 < size <= most:
            field = "dynamic_batching.preferred_batch_size"
            raise _refused(model, field, size, f"sizes above 0, up to the max_batch_size of {most}")
    if batching.max_queue_delay_microseconds > _LONGEST_DELAY_US:
        field = "dynamic_batching.max_queue_delay_microseconds"
        raise _refused(model, field, batching.max_queue_delay_microseconds, "at most a day")


def _check_priorities(model: str, batching: Any) -> None:
    levels = batching.priority_levels
    if levels > _MOST_PRIORITIES:
        raise _refused(model, "dynamic_batching.priority_levels", levels, f"at most {_MOST_PRIORITIES}")
    if not levels:
        return
    if not 0 < batching.default_priority_level <= levels:
        field = "dynamic_batching.default_priority_level"
        raise _refused(model, field, batching.default_priority_level, f"1 to {levels}, the priority_levels")
    for level in batching.priority_queue_policy:
        if not 0 < level <= levels:
            field = "dynamic_batching.priority_queue_policy"
            raise _refused(model, field, level, f"keys of 1 to {levels}, the priority_levels")


def _check_ordering(model: str, batching: Any) -> None:
    if not batching.preserve_ordering:
        return
    if batching.priority_levels > 1:
        field = "dynamic_batching.priority_levels"
        raise _refused(model, field, batching.priority_levels, "at most 1 beside preserve_ordering")
    policies: Iterable[Any] = (batching.default_queue_policy, *batching.priority_queue_policy.values())
    if any(enum_name(policy, "timeout_action") == "DELAY" for policy in policies):
        field = "dynamic_batching.default_queue_policy.timeout_action"
        raise _refused(model, field, "DELAY", "REJECT beside preserve_ordering")


def _policies(batching: Any) -> Mapping[int, QueuePolicy]:
    known = batching.priority_queue_policy if batching.priority_levels else {}
    return {int(level): _policy(policy) for level, policy in sorted(known.items())}


def _policy(policy: Any) -> QueuePolicy:
    return QueuePolicy(
        timeout_us=policy.default_timeout_microseconds,
        is_delayed=enum_name(policy, "timeout_action") == "DELAY",
        may_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _refused(model: str, field: str, found: object, wanted: str) -> InvalidArtifactError:
    return InvalidArtifactError(f"config.pbtxt of '{model}' has {field} {found}: use {wanted}.")
