"""torch models of a whole server on a card: a stand-in for CUDA whose bytes are a fake NVML's."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving import runtimes, server
from serving.backends.torch_program import Program
from serving.backends.torchscript import load_torchscript
from serving.repository.layouts import ModelSpec
from serving.server import Server
from serving.settings import Settings
from tests.gpu.cards import UNIT, FakeCards
from tests.unit.backends.standin_device import StandInDriver
from tests.unit.http.wsgi import Answer, ask

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.(script|trace|trace_method)` is deprecated:DeprecationWarning"),
]

WEIGHTS = 2 * UNIT


class CardDriver(StandInDriver):
    """A stand-in whose tensors, and its cache of them until a trim, are bytes of a card."""

    def __init__(self, cards: FakeCards) -> None:
        super().__init__()
        self._cards = cards
        self._takes: list[Callable[[], None]] = []
        cards.touch(0)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Take bytes of the card along."""
        tensor = super().empty(shape, dtype)
        self._settle()
        return tensor

    def trim(self) -> None:
        """Give the cache's bytes back."""
        super().trim()
        self._settle()

    def _settle(self) -> None:
        while self._takes:
            self._takes.pop()()
        if reserved_bytes := self.reserved_bytes():
            self._takes.append(self._cards.take(0, reserved_bytes))


@pytest.fixture
def cards(tmp_path: Path) -> FakeCards:
    """One card of 16 units: 10 for models, when context, driver and a tenth of headroom are taken out."""
    return FakeCards(tmp_path, units=16)


@pytest.fixture
def site(tmp_path: Path, cards: FakeCards, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of the platform's on that card; what a model weighs there is in no memory of ours, so it is taken."""
    import torch

    driver = CardDriver(cards)
    monkeypatch.setattr(server, "find_devices", lambda _: cards.meter)
    monkeypatch.setattr(runtimes, "open_cuda", lambda _: driver)

    def load_and_weigh(spec: ModelSpec, device: str) -> Program:
        program, weights = load_torchscript(spec, device), driver.empty((WEIGHTS,), torch.uint8)
        return replace(program, call=lambda tensors: [program.call(tensors), weights][0])

    monkeypatch.setattr("serving.backends.torch.load_torchscript", load_and_weigh)
    write_models(tmp_path / "models")
    env = {
        "WHARF_MODEL_ROOT": str(tmp_path / "models"),
        "WHARF_CACHE_DIR": str(tmp_path / "cache"),
        "SAGEMAKER_BASE_DIR": str(tmp_path / "opt-ml"),
        "WHARF_ACCESS_LOG": "off",
        "WHARF_DEVICE": "auto",
        "SAGEMAKER_MULTI_MODEL": "true",
    }
    built = Server(Settings.from_env(env), None)
    built.start()
    yield built
    built.close()
    gc.unfreeze()


def write_models(root: Path) -> None:
    """Write six models of a file as large as their weights."""
    import torch

    net = torch.nn.Identity()
    net.register_buffer("weights", torch.zeros(WEIGHTS, dtype=torch.uint8))
    script = torch.jit.trace(net.eval(), torch.ones(1, 3))
    for number in range(6):
        folder = root / f"m{number}"
        folder.mkdir(parents=True)
        if number:
            (folder / "model.pt").hardlink_to(root / "m0" / "model.pt")
        else:
            script.save(str(folder / "model.pt"))
        (folder / "wharf.toml").write_text('[[inputs]]\nname = "x"\ndtype = "FP32"\ndims = [-1, 3]\n')


def load(site: Server, number: int) -> Answer:
    """POST /models."""
    body = f'{{"model_name": "m{number}", "url": "{site.settings.model_root}/m{number}"}}'.encode()
    return ask(site.app, "POST", "/models", body, content_type="application/json")


def invoke(site: Server, number: int) -> Answer:
    """POST three ones."""
    return ask(site.app, "POST", f"/models/m{number}/invoke", b"[[1, 1, 1]]", content_type="application/json")


def reserved(site: Server) -> float:
    """What models have reserved on the card, by /metrics."""
    text = ask(site.app, "GET", "/metrics").body.decode()
    found = re.search(r'^DeviceReservedBytes\{device="cuda:0"\} (\S+)$', text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


def test_a_model_on_a_gpu_is_in_the_books_by_what_its_allocator_counted(site: Server, cards: FakeCards) -> None:
    """Loaded, answering from there, unloaded when the card has its bytes back."""
    before = cards.meter.used_bytes(0)
    assert load(site, 0).status == 200
    assert reserved(site) == WEIGHTS
    assert invoke(site, 0).json() == [[1.0, 1.0, 1.0]]
    assert ask(site.app, "DELETE", "/models/m0").status == 200
    assert (reserved(site), cards.meter.used_bytes(0)) == (0, before)


def test_a_full_card_is_507_and_an_unload_makes_room(site: Server) -> None:
    """Before a byte is taken; all that are there go on answering."""
    statuses = [load(site, number).status for number in range(6)]
    held = statuses.index(507)
    assert statuses == [200] * held + [507] * (6 - held)
    assert held >= 3
    assert "of cuda:0 while it loads" in load(site, held).error
    assert all(invoke(site, number).status == 200 for number in range(held))
    assert ask(site.app, "DELETE", "/models/m0").status == 200
    assert load(site, held).status == 200


def test_a_delete_is_answered_when_the_card_has_the_bytes_back(site: Server, cards: FakeCards) -> None:
    """By HTTP: gone from the list at once, answered later, and nobody is promised the bytes meanwhile."""
    assert load(site, 0).status == 200
    cards.is_kept.set()
    cards.was_given.clear()
    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(ask, site.app, "DELETE", "/models/m0")
        assert cards.was_given.wait(15)
        assert ask(site.app, "GET", "/models").json()["models"] == []
        assert (deleting.done(), reserved(site)) == (False, WEIGHTS)
        cards.let_go()
        assert deleting.result(15).status == 200
    assert reserved(site) == 0
