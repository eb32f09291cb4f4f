"""A manager over real folders, with a real small backend whose loads and closes tests can hold or make fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from serving import memory
from serving.backends.base import Footprint, InProcessBackend, InProcessModel, LoadedModel
from serving.backends.batched import BatchedModel
from serving.backends.ensemble import EnsembleBackend
from serving.backends.fake import FakeBackend
from serving.catalog import Catalog
from serving.cores import CoreBudget
from serving.eviction import Candidate
from serving.journal import Journal
from serving.ledger import Ledger
from serving.manager import ModelManager
from serving.metrics import Metrics
from serving.repository.layouts import ModelSpec
from serving.repository.scheduling import Scheduling
from serving.repository.source import ModelSource
from serving.repository.store import Store
from serving.residents import Limits
from serving.scales import Scales
from serving.statistics import Statistics
from serving.tensors import Array, Signature, Tensors
from serving.workers.handler import Reply, Request
from serving.workers.plan import Host
from tests.models import make_fake

KIB = 1 << 10
OVERHEAD_BYTES = 16 * KIB
QUICK = Limits(request_timeout_s=0.05, load_timeout_s=5, drain_timeout_s=5, load_concurrency=4)
PATIENT = Limits(request_timeout_s=10, load_timeout_s=10, drain_timeout_s=10, load_concurrency=4)


class Gate:
    """A door that is open until it is closed; tells when somebody stands before it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def go(self) -> None:
        """Open it."""
        self._open.set()

    def pass_through(self) -> None:
        """Wait until it opens."""
        self.reached.set()
        assert self._open.wait(15), "a test forgot to open its gate"


class _Model(InProcessModel):
    def __init__(self, inner: LoadedModel, backend: TestBackend, name: str) -> None:
        self._inner = inner
        self._backend = backend
        self._name = name
        self.extra: Array | None = None

    @property
    def signature(self) -> Signature:
        return self._inner.signature

    @property
    def threads(self) -> int:
        return self._inner.threads

    def attach(self, host: Host) -> None:
        self._backend.hosts[self._name] = host

    def run(self, inputs: Tensors) -> Tensors:
        return self._inner.run(inputs)

    def close(self) -> None:
        self.extra = None
        self._backend.closed.append(self._name)
        if self._name in self._backend.fails_close:
            raise RuntimeError("the runtime cannot let go")
        self._inner.close()


class _Outside(_Model):
    """A model whose requests are answered by a function of the test, as a worker's code would."""

    is_outside = True

    def invoke(self, request: Request, deadline: float) -> Reply:
        assert deadline > 0
        return self._backend.outside[self._name](request)


class TestBackend(InProcessBackend):
    """`FakeBackend` with gates before loads, failures on closing, crashes, and memory beyond its prediction."""

    __test__ = False
    name = "fake"

    def __init__(self) -> None:
        self._inner = FakeBackend()
        self._lock = threading.Lock()
        self.gates: dict[str, Gate] = {}
        self.fails_close: set[str] = set()
        self.crashes: dict[str, BaseException] = {}
        self.extra_bytes: dict[str, int] = {}
        self.peak_bytes: dict[str, int] = {}
        self.loads: Counter[str] = Counter()
        self.closed: list[str] = []
        self.outside: dict[str, Callable[[Request], Reply]] = {}
        self.hosts: dict[str, Host] = {}
        self.schedulers: dict[str, tuple[Scheduling, CoreBudget]] = {}
        self.runtime: Array | None = None
        self.runtime_bytes = 0

    def hold(self, name: str) -> Gate:
        """Stop loads of `name` at a gate."""
        gate = self.gates[name] = Gate()
        return gate

    def prepare(self) -> bool:
        """Take `runtime_bytes` once."""
        if self.runtime is not None or not self.runtime_bytes:
            return False
        self.runtime = _ones(self.runtime_bytes)
        return True

    def footprint(self, spec: ModelSpec) -> Footprint:
        """What the fake says, and `peak_bytes` more while it loads."""
        said = self._inner.footprint(spec)
        return Footprint(said.peak_bytes + self.peak_bytes.get(spec.name, 0), said.resident_bytes)

    def load(self, spec: ModelSpec) -> LoadedModel:
        """Pass the gate, crash or load; behind a batcher where one is set."""
        with self._lock:
            self.loads[spec.name] += 1
        if spec.name in self.gates:
            self.gates[spec.name].pass_through()
        if spec.name in self.crashes:
            raise self.crashes[spec.name]
        kind = _Outside if spec.name in self.outside else _Model
        model = kind(self._inner.load(spec), self, spec.name)
        if spec.name in self.extra_bytes:
            model.extra = _ones(self.extra_bytes[spec.name])
        if spec.name in self.schedulers:
            return BatchedModel(spec.name, model, *self.schedulers[spec.name])
        return model


class House:
    """A manager and everything it is made of."""

    def __init__(
        self,
        folder: Path,
        *,
        is_platform: bool = False,
        budget_bytes: int = 1 << 30,
        limits: Limits = PATIENT,
        pays_for_runtimes: bool = False,
        backend: TestBackend | None = None,
        scales: Scales | None = None,
    ) -> None:
        # What earlier tests left to the collector would go while a load is measured, and hide its growth.
        memory.tune_allocator()  # as in a server: blocks of 16 MiB come from the system and go back to it
        memory.give_back()
        self.root = folder / "models"
        self.root.mkdir(exist_ok=True)
        self._tensors: dict[str, tuple[str, str]] = {}
        self.backend = backend or TestBackend()
        self.ledger = Ledger(budget_bytes, pays_for_runtimes=pays_for_runtimes)
        self.metrics = Metrics()
        self.journal_path = folder / "journal.json"
        self.journal = Journal(self.journal_path)
        self.store = Store(folder / "cache", 1 << 30)
        self.evicted: list[Candidate] = []
        self.source = ModelSource(self.root, self.store, allow_fake=True, may_take_files=True)
        self.statistics = Statistics()
        self.ensembles = EnsembleBackend(5)
        self.manager = ModelManager(
            self.source,
            {"fake": self.backend, "ensemble": self.ensembles},
            self.ledger,
            self.metrics,
            is_platform=is_platform,
            limits=limits,
            journal=self.journal,
            on_evict=lambda victim, _: self.evicted.append(victim),
            scales=scales,
        )
        self.catalog = Catalog(self.manager, self.source, self.statistics)

    def make(self, name: str, **config: object) -> str:
        """Write a fake model; return its url."""
        return str(make_fake(self.root, name, **config))

    def make_ensemble(self, name: str, *members: str) -> None:
        """Write an ensemble that passes its input through models in a row."""
        tensors = [f"T{number}" for number in range(len(members) + 1)]
        steps = ", ".join(
            f'{{ model_name: "{member}" input_map {{ key: "{reads}" value: "{before}" }} '
            f'output_map {{ key: "{writes}" value: "{after}" }} }}'
            for member, before, after in zip(members, tensors, tensors[1:], strict=False)
            for reads, writes in [self._tensors.get(member, ("x", "y"))]
        )
        self._tensors[name] = tensors[0], tensors[-1]
        (self.root / name / "1").mkdir(parents=True)
        (self.root / name / "config.pbtxt").write_text(
            'platform: "ensemble"\nmax_batch_size: 4\n'
            f'input [ {{ name: "{tensors[0]}" data_type: TYPE_FP32 dims: [ 2 ] }} ]\n'
            f'output [ {{ name: "{tensors[-1]}" data_type: TYPE_FP32 dims: [ 2 ] }} ]\n'
            f"ensemble_scheduling {{ step [ {steps} ] }}\n"
        )

    def load(self, name: str, **config: object) -> str:
        """Write a fake model and load it; return its url."""
        url = self.make(name, **config)
        self.manager.load(name, url)
        return url

    def use(self, name: str) -> None:
        """One whole request."""
        with self.manager.ready(name) as resident:
            assert resident.model is not None

    def names(self) -> list[str]:
        """What the platform sees."""
        return [name for name, _ in self.manager.loaded()]

    def in_flight(self, name: str) -> int:
        """Requests that hold or wait for a model."""
        return self.manager.gauges().model_in_flight.get(name, 0)


@contextmanager
def others(count: int = 8) -> Iterator[ThreadPoolExecutor]:
    """Threads for what a test wants to happen meanwhile."""
    with ThreadPoolExecutor(count) as pool:
        yield pool


def _ones(count: int) -> Array:
    import numpy as np

    return np.full(count, 1, np.uint8)
