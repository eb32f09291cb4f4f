"""Hugging Face models split over two ranks answer as the whole model does: logits, greedy text and sampled text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from serving.errors import BadRequestError, LoadFailedError
from serving.workers.handler import Launch, Request
from serving.workers.plan import Plan
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor, Wish
from tests.workers.causal_folders import KINDS, save_causal, save_uneven
from tests.workers.processes import soon

pytestmark = pytest.mark.torch
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("deepspeed")

BY = ("auto", "deepspeed")
PRELOAD = ("numpy", "torch", "torch._dynamo", "transformers.modeling_utils")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for all, as the server's own."""
    made = Supervisor(PRELOAD)
    yield made
    made.close()


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make each model once."""
    folder, made = tmp_path_factory.mktemp("causal"), dict[Any, Path]()

    def one(kind: str, *, tokenizer: bool = True) -> Path:
        key = kind, tokenizer
        if key not in made:
            made[key] = save_causal(folder, kind, tokenizer=tokenizer)
        return made[key]

    return one


def started(supervisor: Supervisor, folder: Path, ranks: int, dialect: str = "huggingface", **options: str) -> Pool:
    """A pool of one group."""
    pool = Pool(Plan(Launch("m", dialect, str(folder), ranks=ranks, options=options), Wish("m")), supervisor)
    pool.start()
    return pool


@contextmanager
def split(supervisor: Supervisor, folder: Path, dialect: str = "huggingface", **options: str) -> Iterator[Pool]:
    """The model in two ranks, gone at the end."""
    pool = started(supervisor, folder, 2, dialect, **options)
    try:
        yield pool
    finally:
        pool.close()


def ask(pool: Pool, inputs: Any, **parameters: Any) -> Any:
    document = {"inputs": inputs, "parameters": parameters} if parameters else {"inputs": inputs}
    request = Request(json.dumps(document).encode(), {"Content-Type": "application/json"})
    reply = pool.submit(request, soon(60))
    assert reply.status == 200, bytes(reply.body)
    return json.loads(bytes(reply.body))


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_the_whole_models(supervisor: Supervisor, make: Make, kind: str, by: str) -> None:
    """To 1e-5, of a batch, over token ids; split by a plan, and by DeepSpeed."""
    import torch
    import transformers

    ids = [[2, 5, 6, 7, 8, 9], [2, 9, 10, 11, 12, 13]]
    folder = make(kind, tokenizer=False)
    with torch.inference_mode():
        wanted = transformers.AutoModelForCausalLM.from_pretrained(folder)(torch.tensor(ids)).logits
    with split(supervisor, folder, split=by) as pool:
        found = torch.tensor(ask(pool, {"input_ids": ids})["logits"])
    assert wanted.shape == (2, 6, 14)
    assert wanted.max() - wanted.min() > 0.5
    assert (wanted - found).abs().max() < 1e-5


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_and_sampled_texts_are_the_whole_models(supervisor: Supervisor, make: Make, kind: str, by: str) -> None:
    """Sampled ones for equal seeds; another seed draws another text."""
    import torch
    import transformers

    whole = transformers.pipeline("text-generation", model=str(make(kind)))
    sampled = {"do_sample": True, "max_new_tokens": 20}
    greedy = {"do_sample": False, "max_new_tokens": 20}
    texts = []
    with split(supervisor, make(kind), split=by) as pool:
        assert ask(pool, "hello world", **greedy) == whole("hello world", **greedy)
        for seed in (7, 8, 7):
            torch.manual_seed(seed)
            texts.append(ask(pool, "where is the red house", seed=seed, **sampled))
            assert texts[-1] == whole("where is the red house", **sampled)
    assert texts[0] == texts[2] != texts[1]


def test_sampling_without_a_seed_draws_the_same_on_all_ranks(supervisor: Supervisor, make: Make) -> None:
    """And another text each time: ranks that drew different tokens would disagree about the length, and hang."""
    with split(supervisor, make("llama")) as pool:
        sampled = {"do_sample": True, "max_new_tokens": 30}
        assert len({json.dumps(ask(pool, "the house", **sampled)) for _ in range(5)}) > 1


def test_a_seed_that_is_none_is_the_clients_fault(supervisor: Supervisor, make: Make) -> None:
    """400 from every rank, and the group stays."""
    with split(supervisor, make("llama")) as pool:
        with pytest.raises(BadRequestError, match="seed is 'x' and wants a whole number"):
            ask(pool, "the house", seed="x")
        assert ask(pool, "the house", max_new_tokens=1, do_sample=False)


COUNTING = """
from djl_python import Output
from serving.workers.dialects.huggingface_ranks import load_ranked

def local(value):
    return getattr(value, "to_local", lambda: value)().numel()

def handle(inputs):
    global model
    if inputs.is_empty():
        model = load_ranked("text-generation", inputs.get_property("model_id"), 2, "cpu", {})
        return None
    parts = {name: part for name, part in model.named_parameters() if name.endswith("weight")}
    return Output().add_as_json({name: local(part) / part.numel() for name, part in parts.items()})
"""


@pytest.mark.parametrize("kind", ["gptj", "opt"])
def test_each_rank_holds_half_of_every_layer(supervisor: Supervisor, make: Make, tmp_path: Path, kind: str) -> None:
    """Of attention and MLP, under a plan of ours; norms and embeddings are whole."""
    (tmp_path / "model.py").write_text(COUNTING)
    with split(supervisor, tmp_path, "djl", model_id=str(make(kind))) as pool:
        shares = ask(pool, "")
    halves = {name for name, share in shares.items() if share == 0.5}
    assert len(halves) == 2 * 6
    assert {share for name, share in shares.items() if name not in halves} == {1.0}
    assert all("norm" in name or "ln_" in name or "emb" in name or name in ("lm_head.weight", "transformer.wte.weight")
               for name in shares.keys() - halves)  # fmt: skip


@pytest.mark.parametrize("entry", ["djl_python.huggingface", "djl_python.deepspeed"])
def test_djls_built_in_handlers_split_as_well(supervisor: Supervisor, make: Make, entry: str) -> None:
    """With option.tensor_parallel_degree; by a plan, and by DeepSpeed whatever plan there is."""
    import transformers

    whole = transformers.pipeline("text-generation", model=str(make("gptj")))
    greedy = {"do_sample": False, "max_new_tokens": 9}
    with split(supervisor, make("gptj"), "djl", entryPoint=entry) as pool:
        assert ask(pool, "hello world", **greedy) == whole("hello world", **greedy)


BY_DEEPSPEED = ("gptj", "llama", "gpt_neo", "bert")


@pytest.mark.parametrize("kind", BY_DEEPSPEED)
def test_what_no_plan_is_for_is_split_by_deepspeed(supervisor: Supervisor, tmp_path: Path, kind: str) -> None:
    """Three heads over two ranks, one head of keys, a family without a plan, a classifier: to 1e-5 as well."""
    import torch
    import transformers

    folder = save_uneven(tmp_path, kind)
    ids = [[2, 5, 6, 7, 8, 9]]
    loader = transformers.AutoModelForSequenceClassification if kind == "bert" else transformers.AutoModelForCausalLM
    with torch.inference_mode():
        wanted = loader.from_pretrained(folder)(torch.tensor(ids)).logits
    with split(supervisor, folder) as pool:
        found = torch.tensor(ask(pool, {"input_ids": ids})["logits"])
    assert (wanted - found).abs().max() < 1e-5


def test_half_a_model_is_split_by_deepspeed_on_the_cpu(supervisor: Supervisor, make: Make) -> None:
    """As float32, so that the parts are held to the whole with half's own precision."""
    with split(supervisor, make("llama"), "djl", entryPoint="djl_python.deepspeed", dtype="fp16") as pool:
        assert ask(pool, "hello world", max_new_tokens=3, do_sample=False)


def test_a_split_that_deepspeed_gets_wrong_is_refused(supervisor: Supervisor, tmp_path: Path) -> None:
    """It splits Persimmon's fused projections where they must not be, and says nothing."""
    with pytest.raises(LoadFailedError, match="type 'persimmon'.* its parts answer otherwise than the whole model"):
        started(supervisor, save_uneven(tmp_path, "persimmon"), 2)


UNEVEN = """
import sys
from djl_python import Output
from serving.workers.dialects.huggingface_ranks import load_ranked

def handle(inputs):
    sys.modules["deepspeed"] = None  # as where it is not installed
    load_ranked("text-generation", inputs.get_property("model_id"), 2, "cpu", {"split": inputs.get_property("split")})
"""


def test_what_cannot_be_split_is_refused_in_words(supervisor: Supervisor, make: Make) -> None:
    """A task that is more than its model, an option that is none, and what DeepSpeed itself cannot."""
    cases = [
        (make("llama"), {"task": "question-answering"}, "'question-answering' is not served by a group of 2 ranks"),
        (make("llama"), {"split": "deep"}, "option split is 'deep' and wants auto or deepspeed"),
        (make("gpt2"), {}, "DeepSpeed cannot split a model of type 'gpt2' over 2 ranks: AutoTP not supported"),
    ]
    for folder, options, words in cases:
        with pytest.raises(LoadFailedError, match=words):
            started(supervisor, folder, 2, **options)


def test_without_deepspeed_the_refusal_says_so(supervisor: Supervisor, make: Make, tmp_path: Path) -> None:
    """No plan, heads that do not come out even, and where it was asked for."""
    (tmp_path / "model.py").write_text(UNEVEN)
    cases = [
        (make("gpt2"), {}, "type 'gpt2' cannot be split over 2 ranks.*gptj, opt.* and deepspeed is not installed here"),
        (save_causal(tmp_path, "gptj", heads=3), {}, "num_attention_heads = 3, which 2 ranks.* not installed here"),
        (make("llama"), {"split": "deepspeed"}, "split is 'deepspeed', which is not installed here"),
    ]
    for folder, options, words in cases:
        with pytest.raises(LoadFailedError, match=words):
            started(supervisor, tmp_path, 2, "djl", model_id=str(folder), **options)
