"""What a config.pbtxt comes to, in words: for `wharf validate`.

Says what is acted on: batches, instances, the version, shapes, what may be left out, labels, warm-up. What is not acted
on is among a spec's warnings already.
"""

from __future__ import annotations

from collections.abc import Iterator

from serving.repository.layouts import ModelSpec
from serving.repository.scheduling import Scheduling
from serving.tensors import TensorSpec


def explained(spec: ModelSpec) -> list[tuple[str, str]]:
    """Return pairs of a word and a sentence; none for a model without a config.pbtxt."""
    if spec.scheduling is None:
        return []
    rows = [("version", _versions(spec)), ("batching", _batching(spec.scheduling))]
    if spec.scheduling.priority_levels:
        levels, default = spec.scheduling.priority_levels, spec.scheduling.default_priority
        rows.append(("priority", f"1 to {levels}, {default} for a request that says none"))
    rows.append(("instances", str(spec.scheduling.instances)))
    for tensor in (*(spec.inputs or ()), *(spec.outputs or ())):
        rows += [(word, sentence) for word, sentence in _tensor(tensor)]
    rows += [
        ("member", f"{each.name}: {each.handler.dialect if each.handler else each.format}") for each in spec.members
    ]
    for sample in spec.warmup:
        times = "once" if sample.count == 1 else f"{sample.count} times"
        rows.append(
            ("warm-up", f"{sample.name or 'a sample'}, {times}: {', '.join(each.name for each in sample.inputs)}")
        )
    return rows


def _versions(spec: ModelSpec) -> str:
    if not spec.versions:
        return spec.version
    return f"{spec.version} for who names none, and {', '.join(each.version for each in spec.versions)}"


def _batching(scheduling: Scheduling) -> str:
    if not scheduling.is_dynamic:
        most = f", of at most {scheduling.max_batch_size} rows" if scheduling.max_batch_size else ""
        return f"none, each request runs by itself{most}"
    preferred = f", at once with {' or '.join(map(str, scheduling.preferred))}" if scheduling.preferred else ""
    ordered = ", answers in order" if scheduling.preserve_ordering else ""
    return f"up to {scheduling.max_batch_size} rows, within {scheduling.max_queue_delay_us} us{preferred}{ordered}"


def _tensor(tensor: TensorSpec) -> Iterator[tuple[str, str]]:
    if tensor.reshape is not None:
        yield "reshape", f"{tensor.name}: clients see {list(tensor.dims or ())}, the model {list(tensor.reshape)}"
    if tensor.is_optional:
        yield "optional", f"{tensor.name} may be left out, where the model agrees"
    if tensor.labels is not None:
        yield "labels", f"{tensor.name} has {len(tensor.labels)}"
