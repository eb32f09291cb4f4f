"""Models that need Python: each in workers of its own, forked from one zygote.

Turns a `HandlerSpec` into a `Plan`, predicts from the files what a worker will hold, and measures it once it is there.
No line of people's code runs in this process. Calls `workers` alone; `manager` calls it like every other backend.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from serving.backends.base import Footprint
from serving.devices import PROCESS_BYTES, named_devices
from serving.errors import InsufficientMemoryError, InvalidArtifactError, ModelFailedError
from serving.repository.handler_spec import HandlerSpec
from serving.repository.layouts import ModelSpec
from serving.tensors import DTYPES, Method, Signature, Tensors, TensorSpec
from serving.workers.device_slices import chosen_devices, visible_devices
from serving.workers.environments import Environment, Environments
from serving.workers.group_sizes import GroupSizes, group_sizes
from serving.workers.handler import Launch, Reply, Request
from serving.workers.plan import Host, Plan
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor, Wish

log = logging.getLogger("wharf.workers")

# Private memory of a forked worker before its model (18 MiB measured with torch), and of a spawned one that imports
# torch itself (reference: frontier 3; 580 MiB with BERT-base's 438).
_FORKED_BYTES = 24 << 20
_SPAWNED_BYTES = 150 << 20
# What a rank of a split model has besides: 270 MiB were measured with 200 of weights.
_SPLIT_BYTES = 46 << 20
# How often workers are looked at: for idle ones, and for those that grew.
_JANITOR_S = 1.0
# Of these every so many measure all of them: 5-10 ms of the kernel's time for each worker.
_MEASURED_TURNS = 15
_ANY = TensorSpec("x")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What workers need of the settings. Times in seconds, sizes in bytes; 0 is no limit."""

    cores: int = 1
    preload: tuple[str, ...] = ("numpy", "torch")
    log_format: str = "text"
    device: str = "cpu"
    min_workers: int = 1
    max_workers: int = 2
    idle_s: float = 60.0
    queue_size: int = 1000
    request_timeout_s: float = 60.0
    load_timeout_s: float = 360.0
    max_deaths: int = 5
    ping_s: float = 10.0
    ping_timeout_s: float = 30.0
    default_accept: str = "application/json"
    max_reply_bytes: int = 64 << 20
    address_space_bytes: int = 0
    open_files: int = 4096
    processes: int = 256


class WorkerModel:
    """A model in its workers. `takes_bodies`: its own code decodes requests, else it takes tensors."""

    is_outside = True
    threads = 1

    def __init__(self, spec: ModelSpec, pool: Pool, environment: Environment) -> None:
        ready = pool.ready
        self._pool = pool
        self._environment = environment
        self.timeout_s = pool.plan.predict_timeout_s
        self.workers_max = pool.plan.max_workers
        self.takes_bodies = not ready.get("takes_tensors")
        self.batching = ready.get("batching")  # what a model says of it that completes its own configuration
        self.methods = _methods(ready.get("signatures"))
        self.signature = Signature(
            spec.inputs or _specs(ready.get("inputs")) or (_ANY,), spec.outputs or _specs(ready.get("outputs")) or ()
        )

    def run(self, inputs: Tensors) -> Tensors:
        """Compute outputs by name; raises what `invoke` raises, and for an answer that is an error.

        Of a model that streams all is read, so that its worker is free again, and nothing is returned.
        """
        reply = self.invoke(Request(tensors=inputs), time.monotonic() + self.timeout_s)
        for _ in reply.chunks or ():
            pass
        if reply.tensors is None and reply.status >= 400:
            text = bytes(reply.body).decode("utf-8", "replace")
            raise (InsufficientMemoryError if reply.status == 507 else ModelFailedError)(text)
        return reply.tensors or {}

    def invoke(self, request: Request, deadline: float) -> Reply:
        """Have the model's own code answer; a reply's `chunks` must be read to the end or closed.

        Raises `ModelFailedError` (424) with the last line of its exception, `UnavailableError` (503) when its worker
        is lost, hangs until `deadline` (of the monotonic clock) or is not free, and what the handler says of the body.
        """
        return self._pool.submit(request, deadline)

    def invoke_all(self, requests: Sequence[Request], deadline: float) -> list[Reply]:
        """Have requests answered by one call of one worker; raises what `invoke` raises, for all of them.

        The reply of a request alone may have `chunks`, as with `invoke`; of several each is whole.
        """
        return self._pool.submit_all(requests, deadline)

    def watch(self, heard: Callable[[int], None]) -> None:
        """Have `heard` called with the number of workers, now and when it changes; it must not call this model."""
        self._pool.watch(heard)

    def admit(self, waiting: int, batch_size: int) -> None:
        """Say that `waiting` requests wait before this model, for calls of `batch_size`: more workers may be wanted.

        Raises `UnavailableError` (503) where they are too many.
        """
        self._pool.admit(waiting, batch_size)

    @property
    def waiting(self) -> int:
        """How many requests wait for a worker (Triton's pending requests)."""
        return self._pool.waiting

    def held_bytes(self) -> int:
        """Return what its workers added to the machine's memory, in bytes."""
        return self._pool.held_bytes()

    def device_bytes(self) -> None:
        """Leave the measuring to the loader: the device's use grew."""

    def attach(self, host: Host) -> None:
        """Take the owner of the memory, who grants more workers theirs and hears when the model is beyond repair."""
        self._pool.adopt(host)

    def look_after(self, *, is_due: bool = False) -> None:
        """End a worker that was idle for long, ask others if they live; correct the ledger if one grew, or when due."""
        self._pool.trim()
        self._pool.ping()
        self._pool.measure(is_due=is_due)

    def close(self) -> None:
        """End the workers; their memory is back when this returns."""
        self._pool.close()
        self._environment.release()


class WorkerBackend:
    """The backend of format "worker"."""

    name = "worker"
    is_outside = True

    def __init__(
        self, settings: WorkerSettings, environments: Environments, environ: Mapping[str, str] | None = None
    ) -> None:
        self._settings = settings
        self._environments = environments
        self._supervisor = Supervisor(settings.preload, settings.log_format, environ)
        self._models: WeakSet[WorkerModel] = WeakSet()
        self._janitor_lock = threading.Lock()
        self._janitor: threading.Thread | None = None
        self._is_closed = threading.Event()

    def prepare(self) -> bool:
        """Start the zygote if it does not run; return whether this call did. Raises `LoadFailedError`."""
        return self._supervisor.start()

    def outside_bytes(self) -> int:
        """Return what the zygote holds, in bytes."""
        return self._supervisor.held_bytes()

    def all_bytes(self) -> int:
        """Return what the zygote and all workers hold, in bytes."""
        return self.outside_bytes() + sum(model.held_bytes() for model in self._loaded())

    def footprint(self, spec: ModelSpec) -> Footprint:
        """Predict from the size of the files: their bytes once more in memory, for each of the first workers.

        A group's is the sum over its ranks. On a device with a context each, and for all workers that there may be:
        they ask for no more room there later. Of a group each device has one rank, with an equal share of the files.
        """
        handler = _handler(spec)
        sizes = self._sizes(spec, handler)
        own_bytes = _SPAWNED_BYTES if handler.python else _FORKED_BYTES
        if handler.memory_bytes:
            each = handler.memory_bytes
        elif handler.dialect == "huggingface" and sizes.ranks:  # they share the files out
            each = (own_bytes + _SPLIT_BYTES) * sizes.ranks + spec.bytes
        else:
            each = (own_bytes + spec.bytes) * max(1, sizes.ranks)
        held_bytes = each * sizes.least
        devices = named_devices(spec.device or self._settings.device)
        if devices is None:
            return Footprint(held_bytes, held_bytes)
        device_bytes = (PROCESS_BYTES + spec.bytes) * sizes.most
        if sizes.ranks:
            devices, device_bytes = sizes.devices, PROCESS_BYTES + -(-spec.bytes // sizes.ranks)
        return Footprint(held_bytes, held_bytes, device_bytes, device_bytes, devices, is_apart=True)

    def load(self, spec: ModelSpec) -> WorkerModel:
        """Start the workers and wait until they are ready.

        Raises `LoadFailedError` with what the handler said, `InsufficientMemoryError` for typed memory errors,
        `InvalidArtifactError` for an environment that cannot be.
        """
        handler = _handler(spec)
        _check_device(spec, handler)
        environment = self._environments.open(handler, spec.name)
        try:
            pool = Pool(self._plan(spec, handler, environment), self._supervisor)
            pool.start()
            try:
                model = WorkerModel(spec, pool, environment)
            except BaseException:
                pool.close()
                raise
        except BaseException:
            environment.release()
            raise
        with self._janitor_lock:
            self._models.add(model)
        self._watch()
        return model

    def close(self) -> None:
        """End the zygote and what is left of its workers."""
        self._is_closed.set()
        self._supervisor.close()
        self._environments.close()

    def _plan(self, spec: ModelSpec, handler: HandlerSpec, environment: Environment) -> Plan:
        ours = self._settings
        sizes = self._sizes(spec, handler)
        is_spawned = environment.must_spawn(self._supervisor.modules)
        if is_spawned and environment.python is None:
            log.info("event=spawned_not_forked model=%s reason='its packages replace preloaded ones'", spec.name)
        launch = Launch(
            name=spec.name,
            dialect=handler.dialect,
            folder=str(handler.folder),
            file=str(handler.file or ""),
            options=dict(handler.options) | ({"tensor_parallel_degree": str(sizes.ranks)} if sizes.ranks else {}),
            config=dict(handler.config),
            paths=[str(each) for each in (*handler.paths, *environment.paths)],
            environ={**environment.environ, **handler.environ},
            device=self._device(spec),
            ranks=sizes.ranks,
            threads=spec.threads or max(1, ours.cores // (sizes.most * max(1, sizes.ranks))),
            batch_size=handler.batch_size,
            default_accept=ours.default_accept,
            max_reply_bytes=min(handler.max_reply_bytes or ours.max_reply_bytes, ours.max_reply_bytes),
            address_space_bytes=ours.address_space_bytes,
            open_files=ours.open_files,
            processes=ours.processes,
        )
        wish = Wish(
            spec.name,
            python=str(environment.python or ""),
            is_spawned=is_spawned,
            environ=environment.environ,
            processes=ours.processes,
        )
        return Plan(
            launch,
            wish,
            sizes.least,
            sizes.most,
            handler.max_batch_delay_s,
            handler.queue_size or ours.queue_size,
            ours.idle_s if handler.idle_s is None else handler.idle_s,
            handler.predict_timeout_s or ours.request_timeout_s,
            handler.load_timeout_s or ours.load_timeout_s,
            handler.max_deaths or ours.max_deaths,
            ours.ping_s,
            ours.ping_timeout_s,
            sizes.slices,
        )

    def _sizes(self, spec: ModelSpec, handler: HandlerSpec) -> GroupSizes:
        """Return how many workers or groups a model has; on a device only those that its own configuration wants."""
        ours = self._settings
        named = named_devices(spec.device or ours.device)
        if handler.tensor_parallel is None:
            least = handler.min_workers or ours.min_workers
            most = handler.max_workers or (ours.max_workers if named is None else least)
            return GroupSizes(0, least, max(least, most))
        devices = None
        if named is not None:
            devices = chosen_devices(spec.name, visible_devices(os.environ), handler.devices or named)
        return group_sizes(spec.name, handler.tensor_parallel, handler.min_workers, handler.max_workers, devices)

    def _device(self, spec: ModelSpec) -> str:
        """Return where its code is to run: what was said, with the number of the device that it has room on.

        A rank sees the GPUs of its group alone, and finds its own among them.
        """
        device, index = spec.device or self._settings.device, spec.placement.device
        if _handler(spec).tensor_parallel is not None:
            return device.partition(":")[0]
        return device if index is None or named_devices(device) is None else f"cuda:{index}"

    def _loaded(self) -> list[WorkerModel]:
        with self._janitor_lock:
            return list(self._models)

    def _watch(self) -> None:
        with self._janitor_lock:
            if self._janitor is None:
                self._janitor = threading.Thread(target=self._clean, name="worker-janitor", daemon=True)
                self._janitor.start()

    def _clean(self) -> None:
        for turn in itertools.count(1):
            if self._is_closed.wait(_JANITOR_S):
                return
            for model in self._loaded():
                try:
                    model.look_after(is_due=turn % _MEASURED_TURNS == 0)
                except Exception:  # one model's trouble is not the end of the care for all
                    log.exception("event=not_looked_after")


def _handler(spec: ModelSpec) -> HandlerSpec:
    if spec.handler is None:
        raise InvalidArtifactError(f"Model '{spec.name}' names no handler for its workers.")
    return spec.handler


def _check_device(spec: ModelSpec, handler: HandlerSpec) -> None:
    """Refuse a DJL model that names a GPU where there is none, before its code fails on that; groups count theirs."""
    is_named = handler.dialect == "djl" and spec.device not in (None, "cpu") and handler.tensor_parallel is None
    if is_named and not visible_devices(os.environ):
        raise InvalidArtifactError(
            f"Model '{spec.name}' is to run on {spec.device} and this machine shows no GPU: take load_on_devices (or "
            "wharf.toml's device) out, say cpu there, or show it a GPU (CUDA_VISIBLE_DEVICES)."
        )


def _methods(described: Any) -> dict[str, Method]:
    """Read what a worker says of the ways to call it."""
    given = described if isinstance(described, Mapping) else {}
    return {
        str(name): Method(
            Signature(_specs(each.get("inputs")), _specs(each.get("outputs"))), str(each.get("method") or "")
        )
        for name, each in given.items()
        if isinstance(each, Mapping)
    }


def _specs(described: Any) -> tuple[TensorSpec, ...]:
    """Read what a worker says of its tensors; what it gets wrong is left open."""
    specs = []
    for each in described if isinstance(described, list) else ():
        if isinstance(each, Mapping) and isinstance(each.get("name"), str):
            dtype, dims = each.get("dtype"), each.get("dims")
            is_shape = isinstance(dims, list) and all(isinstance(dim, int) for dim in dims)
            specs.append(
                TensorSpec(
                    each["name"],
                    dtype if isinstance(dtype, str) and dtype in DTYPES else None,
                    tuple(dims or ()) if is_shape else None,
                )
            )
    return tuple(specs)
