"""Tokens over worker processes, alone and in groups of two: the same texts, in step, ended when nobody reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.errors import BadRequestError
from serving.workers.handler import Launch, Reply, Request
from serving.workers.plan import Plan
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor, Wish
from tests.workers.causal_folders import KINDS, save_causal
from tests.workers.processes import soon
from tests.workers.spellings import save_bytes
from tests.workers.streaming_models import COUNTED, asked, runs

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

PRELOAD = ("numpy", "torch", "torch._dynamo", "transformers.modeling_utils")
LONG = {"max_new_tokens": 100_000, "min_new_tokens": 100_000, "do_sample": False}
Make = Callable[[str], Path]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for all, as the server's own."""
    made = Supervisor(PRELOAD)
    yield made
    made.close()


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make each model once."""
    folder, made = tmp_path_factory.mktemp("causal"), dict[str, Path]()

    def one(kind: str) -> Path:
        if kind not in made:
            made[kind] = save_bytes(folder) if kind == "bytes" else save_causal(folder, kind)
        return made[kind]

    return one


@contextmanager
def pool_of(
    supervisor: Supervisor, folder: Path, ranks: int, dialect: str = "huggingface", **options: str
) -> Iterator[Pool]:
    """One worker for 0 ranks, or one group; gone at the end."""
    pool = Pool(Plan(Launch("m", dialect, str(folder), ranks=ranks, options=options), Wish("m")), supervisor)
    pool.start()
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module", params=[0, 2], ids=["alone", "two ranks"])
def counted(
    request: pytest.FixtureRequest, supervisor: Supervisor, make: Make, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Pool, Path, int]]:
    """DJL's built-in handler, whose runs are counted; its folder and how many ranks it has."""
    folder = tmp_path_factory.mktemp("counted")
    (folder / "model.py").write_text(COUNTED)
    with pool_of(supervisor, folder, request.param, "djl", model_id=str(make("bytes"))) as pool:
        yield pool, folder, request.param or 1


def send(pool: Pool, request: Request) -> Reply:
    return pool.submit(request, soon(60))


def texts(reply: Reply) -> tuple[str, Any]:
    """Return the texts of a stream together, and its last line."""
    assert reply.chunks is not None, bytes(reply.body)
    lines = [json.loads(each) for each in b"".join(reply.chunks).splitlines()]
    return "".join(each["token"]["text"] for each in lines), lines[-1]


@pytest.mark.parametrize("kind", [*KINDS, "bytes"])
def test_a_groups_tokens_are_those_of_one_process_and_of_the_whole_answer(
    supervisor: Supervisor, make: Make, kind: str
) -> None:
    """Greedy, and sampled from equal seeds."""
    ways: list[dict[str, Any]] = [
        {"do_sample": False, "max_new_tokens": 20},
        {"do_sample": True, "seed": 7, "max_new_tokens": 20},
    ]
    found: list[list[str]] = []
    for ranks in (0, 2):
        with pool_of(supervisor, make(kind), ranks) as pool:
            streamed = [texts(send(pool, asked("hello", parameters=way, stream=True))) for way in ways]
            wholes = [send(pool, asked("hello", parameters={**way, "return_full_text": False})) for way in ways]
        found.append([text for text, _ in streamed])
        assert found[-1] == [json.loads(bytes(each.body))[0]["generated_text"] for each in wholes]
        assert found[-1] == [last["generated_text"] for _, last in streamed]
    assert found[0] == found[1]


@pytest.mark.parametrize("read", [0, 1, 5])
def test_a_reader_that_leaves_ends_the_generation_in_all_ranks_after_the_same_token(
    counted: tuple[Pool, Path, int], read: int
) -> None:
    """No run of the model comes after it, and the next request is answered at once by the same processes."""
    pool, folder, ranks = counted
    before = [runs(folder, rank) for rank in range(ranks)]
    chunks: Any = send(pool, asked("hello", parameters=LONG, stream=True)).chunks
    for _ in range(read):
        next(chunks)
    chunks.close()
    made = [runs(folder, rank) - count for rank, count in enumerate(before)]
    assert len(set(made)) == 1, made
    assert read <= made[0] < 10_000
    if ranks > 1:  # one is made while the reader has the last one
        assert made[0] <= read + 2
    whole = send(pool, asked("hello", parameters={"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}))
    assert whole.status == 200
    assert [runs(folder, rank) - count for rank, count in enumerate(before)] == [made[0] + 3] * ranks


def test_an_error_before_the_first_token_is_the_requests_and_the_ranks_stay(
    counted: tuple[Pool, Path, int], supervisor: Supervisor, make: Make
) -> None:
    """424 with DJL's body from its handler, 400 from the dialect, as for a whole answer."""
    pool, _, ranks = counted
    bad = asked("hello", parameters={"nonsense": 1}, stream=True)
    reply = send(pool, bad)
    assert (reply.status, reply.chunks, b"nonsense" in bytes(reply.body)) == (424, None, True)
    assert texts(send(pool, asked("hello", parameters={"max_new_tokens": 2}, stream=True)))
    with pool_of(supervisor, make("llama"), ranks if ranks > 1 else 0) as other:
        with pytest.raises(BadRequestError, match="nonsense"):
            send(other, bad)
        assert texts(send(other, asked("hello", parameters={"max_new_tokens": 2}, stream=True)))
