"""Fake models in a repository, and SageMaker's side of the contract: load, unload the least recently used, invoke.

A fake really holds its bytes and really takes its time; it multiplies what it is sent. `Platform` keeps its own book of
what is loaded, which is what a test compares with the container's list: a difference is a ghost.
"""

import json
import random
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import httpx

MIB = 1 << 20
SCALE = 4.0


def write_fakes(root: Path, count: int, model_bytes: int, delay_ms: int = 0, inner: str = "") -> list[str]:
    """Write `count` fake models below `root` (in a subfolder `inner`, as SageMaker does) and return their names."""
    names = [f"m{number:03d}" for number in range(count)]
    for name in names:
        folder = root / name / inner
        folder.mkdir(parents=True)
        (folder / "fake.json").write_text(json.dumps({"bytes": model_bytes, "delay_ms": delay_ms, "scale": SCALE}))
    # The container's user is another one than ours and pytest's folders are ours alone.
    root.chmod(0o755)
    return names


def zipf(names: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Return `count` names drawn with weight 1/rank: a few are hot, every one is touched now and then."""
    weights = [1 / rank for rank in range(1, len(names) + 1)]
    return random.Random(seed).choices(names, weights, k=count)


def ask(client: httpx.Client, name: str, value: float = 2.0) -> None:
    """Invoke a fake and check that the answer is right."""
    reply = client.post(f"/models/{name}/invoke", json={"instances": [[1.0, value]]})
    assert reply.status_code == 200, f"{name}: {reply.status_code} {reply.text}"
    assert reply.json() == {"predictions": [[SCALE, SCALE * value]]}


def listed(client: httpx.Client) -> set[str]:
    """Return the names of GET /models, all pages."""
    names: set[str] = set()
    token: str | None = ""
    while token is not None:
        page = client.get("/models", params={"next_page_token": token} if token else {}).json()
        names |= {model["modelName"] for model in page["models"]}
        token = page.get("nextPageToken")
    return names


class Platform:
    """SageMaker's book of one container: loads on demand and, on 507, unloads the least recently used first."""

    def __init__(self, client: httpx.Client, fewest_resident: int) -> None:
        """Hold a 507 to be wrong while fewer than `fewest_resident` models are loaded."""
        self.client = client
        self.fewest_resident = fewest_resident
        self.loaded: OrderedDict[str, None] = OrderedDict()
        self.refusals = 0

    def invoke(self, name: str) -> None:
        """Load the model if it is not, and ask it."""
        if name not in self.loaded:
            self._load(name)
        self.loaded.move_to_end(name)
        ask(self.client, name)

    def _load(self, name: str) -> None:
        body = {"model_name": name, "url": f"/opt/ml/models/{name}/model"}
        while (reply := self.client.post("/models", json=body)).status_code == 507:
            self.refusals += 1
            assert len(self.loaded) >= self.fewest_resident, f"507 with only {len(self.loaded)} loaded: {reply.text}"
            self._unload_oldest()
        assert reply.status_code == 200, f"{name}: {reply.status_code} {reply.text}"
        self.loaded[name] = None

    def _unload_oldest(self) -> None:
        name, _ = self.loaded.popitem(last=False)
        reply = self.client.delete(f"/models/{name}")
        assert reply.status_code == 200, f"{name}: {reply.status_code} {reply.text}"
