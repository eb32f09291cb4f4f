"""People's own model.py with `deepspeed.init_inference` in two ranks on the CPU: the seed's, and what others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.workers.handler import Launch, Request
from serving.workers.plan import Plan
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor, Wish
from tests.workers.causal_folders import save_causal
from tests.workers.processes import soon
from tests.workers.rank_models import shared_files
from tests.workers.seed_handler import seed_handler

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")
pytest.importorskip("deepspeed")

Start = Callable[..., Pool]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for all, as the server's own."""
    made = Supervisor(("numpy", "torch", "torch._dynamo", "transformers.modeling_utils"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random GPT-J with its tokenizer."""
    return save_causal(tmp_path_factory.mktemp("causal"), "gptj")


@pytest.fixture
def start(supervisor: Supervisor, tmp_path: Path) -> Iterator[Start]:
    """Write a model.py and load it in two ranks; all are closed at the end."""
    pools: list[Pool] = []

    def one(code: str, *, ranks: int = 2, **environ: str) -> Pool:
        (tmp_path / "model.py").write_text(code)
        options = {"tensor_parallel_degree": str(ranks)}
        launch = Launch("m", "djl", str(tmp_path), ranks=ranks, options=options, environ=environ)
        pools.append(Pool(Plan(launch, Wish("m")), supervisor))
        pools[-1].start()
        return pools[-1]

    yield one
    for pool in pools:
        pool.close()


def ask(pool: Pool, text: str) -> Any:
    reply = pool.submit(Request(text.encode(), {"Content-Type": "text/plain"}), soon(60))
    assert reply.status == 200, bytes(reply.body)
    return json.loads(bytes(reply.body))


def test_the_seeds_handler_answers_as_the_whole_model(start: Start, folder: Path) -> None:
    """Greedy, so that there is one answer: with its arguments as they are, kernel injection and all."""
    import transformers

    whole = transformers.pipeline("text-generation", model=str(folder))
    pool = start(seed_handler(folder))

    assert ask(pool, "hello world") == whole("hello world", do_sample=False, min_new_tokens=20, max_new_tokens=25)
