"""A real manager over real folders, with everything that the invariants need recorded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serving.backends.fake import FakeBackend
from serving.eviction import Candidate
from serving.journal import Journal
from serving.ledger import Ledger
from serving.lifecycle import State
from serving.manager import ModelManager
from serving.metrics import Metrics
from serving.repository.source import ModelSource
from serving.repository.store import Store
from serving.residents import Limits
from tests.models import make_fake

KIB = 1 << 10
# Sizes around the budget: small, a third, most, and one that can never fit. Each also has FakeBackend's 16 KiB.
SIZES_KIB = {"a": 100, "b": 200, "c": 300, "d": 300, "e": 400, "f": 900, "g": 50, "huge": 2000}
BUDGET_BYTES = 1000 * KIB
OVERHEAD_BYTES = 16 * KIB


class Rig:
    """The manager under test and what it did."""

    def __init__(self, folder: Path, *, is_platform: bool, timeout_s: float = 0.05) -> None:
        self.root = folder / "models"
        for name, size in SIZES_KIB.items():
            make_fake(self.root, name, bytes=size * KIB)
        make_fake(self.root, "broken", bytes=10 * KIB, fail_load="BOOM_table: OOM in words only")
        make_fake(self.root, "starved", bytes=10 * KIB, is_out_of_memory=True)
        self.journal = Journal(folder / "journal.json")
        self.ledger = Ledger(BUDGET_BYTES)
        self.metrics = Metrics()
        self.evictions: list[tuple[Candidate, Sequence[Candidate]]] = []
        self.manager = ModelManager(
            ModelSource(self.root, Store(folder / "cache", 1 << 30), allow_fake=True),
            {"fake": FakeBackend()},
            self.ledger,
            self.metrics,
            is_platform=is_platform,
            limits=Limits(timeout_s, timeout_s, 5.0, 4),
            journal=self.journal,
            on_evict=lambda victim, idle: self.evictions.append((victim, idle)),
        )

    def url(self, name: str) -> str:
        """Return the url of one of the models."""
        return str(self.root / name)

    def check_invariants(self) -> None:
        """What must hold at every moment that is visible from outside."""
        residents = self.manager._by_name
        with self.manager._lock:
            assert self.ledger.used_bytes <= self.ledger.budget_bytes
            assert self.ledger.used_bytes == sum(self.ledger.reservations.values())
            assert self.ledger.reservations.keys() <= residents.keys()
            assert all(each.in_flight >= 0 for each in residents.values())
            assert all(each.state is not State.UNAVAILABLE for each in residents.values())
            assert all(
                each.name in self.ledger.reservations for each in residents.values() if each.state is State.READY
            )

    def check_evictions(self) -> None:
        """Every victim was the least recently used of the idle ones that were left."""
        for victim, idle in self.evictions:
            gone = {
                each.name for each, snapshot in self.evictions if snapshot is idle and each.last_used < victim.last_used
            }
            older = [each for each in idle if each.last_used < victim.last_used and each.name not in gone]
            assert older == []
