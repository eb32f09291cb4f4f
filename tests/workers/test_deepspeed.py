"""People's own model.py with `deepspeed` in two ranks on the CPU: the seed's, and what others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import LoadFailedError
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
IDS = [[2, 5, 6, 7, 8, 9]]

# Evaluates requests, with `engine` a GPT-J split by `init_inference` with the arguments of the environment.
HANDLER = """
import json, os, sys
before = "deepspeed" in sys.modules
import torch
import deepspeed
from djl_python import Input, Output
from transformers import AutoModelForCausalLM

engine = None

def handle(inputs: Input):
    global engine
    if engine is None:
        exec(os.environ.get("FIRST", ""), globals())
        model = AutoModelForCausalLM.from_pretrained("{model}")
        degree = inputs.get_property("tensor_parallel_degree")
        engine = eval("deepspeed.init_inference(model, " + os.environ["ARGUMENTS"] + ")", globals(), locals())
    if inputs.is_empty():
        return None
    return Output().add_as_json(eval(inputs.get_as_string()))
"""
LOGITS = f"engine(input_ids=torch.tensor({IDS})).logits.float().tolist()"


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
def start(supervisor: Supervisor, folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Write a model.py (else HANDLER's) and load it in two ranks; all are closed at the end."""
    pools: list[Pool] = []

    def one(arguments: str = "", code: str = HANDLER.replace("{model}", str(folder)), **environ: str) -> Pool:
        (tmp_path / "model.py").write_text(code)
        options = {"tensor_parallel_degree": "2"}
        launch = Launch(
            "m", "djl", str(tmp_path), ranks=2, options=options, environ={"ARGUMENTS": arguments, **environ}
        )
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


def apart(pool: Pool, folder: Path) -> float:
    """How far the engine's logits are from the whole model's."""
    import torch
    import transformers

    with torch.inference_mode():
        wanted = transformers.AutoModelForCausalLM.from_pretrained(folder)(torch.tensor(IDS)).logits
    return float((wanted - torch.tensor(ask(pool, LOGITS))).abs().max())


def test_the_seeds_handler_answers_as_the_whole_model(start: Start, folder: Path) -> None:
    """Greedy, so that there is one answer: with its arguments as they are, kernel injection and all."""
    import transformers

    whole = transformers.pipeline("text-generation", model=str(folder))
    pool = start(code=seed_handler(folder))

    assert ask(pool, "hello world") == whole("hello world", do_sample=False, min_new_tokens=20, max_new_tokens=25)


ARGUMENTS = {
    "today's": "tensor_parallel={'tp_size': degree}, dtype=torch.float32",
    "none of a dtype": "tensor_parallel={'tp_size': degree}",
    "a dictionary": "config={'tensor_parallel': {'tp_size': degree}, 'dtype': 'fp32', 'enable_cuda_graph': True}",
    "0.6's": "triangular_masking=True, mp_size=degree, training_mp_size=1, mpu=None, dtype=None, replace_method=None, "
    "quantization_setting=1, replace_with_kernel_inject=True, return_tuple=True, moe_experts=1",
    "half": "mp_size=degree, dtype=torch.half, replace_method='auto', replace_with_kernel_inject=True",
    "half in words": "mp_size=degree, dtype='fp16', kernel_inject=True",
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_of_all_ages_split_the_model(start: Start, folder: Path, kind: str) -> None:
    """Called outside of no_grad, as engines often are; what there is no CUDA for is off, and said in the log."""
    assert apart(start(ARGUMENTS[kind]), folder) < 1e-5


def test_a_configuration_file_is_read(start: Start, folder: Path, tmp_path: Path) -> None:
    """As `config` or as its path."""
    wanted = {"tensor_parallel": {"tp_size": 2}, "dtype": "fp16", "replace_with_kernel_inject": True}
    (tmp_path / "ds.json").write_text(json.dumps(wanted))
    assert apart(start("config='ds.json'"), folder) < 1e-5


def test_bfloat16_stays(start: Start, folder: Path) -> None:
    """DeepSpeed has it on any CPU."""
    pool = start("mp_size=degree, dtype=torch.bfloat16")
    assert ask(pool, "str(engine.dtype)") == "torch.bfloat16"
    assert 1e-5 < apart(pool, folder) < 0.2


def test_an_engine_has_what_its_model_has(start: Start) -> None:
    """Pipelines ask it for these; what neither has is an AttributeError."""
    pool = start("mp_size=degree")
    assert ask(pool, "[str(engine.device), engine.config.model_type, engine.can_generate()]") == ["cpu", "gptj", True]
    assert ask(pool, "[hasattr(engine, 'generation_config'), hasattr(engine, 'nonsense')]") == [True, False]


def test_a_rank_meets_over_gloo_whatever_it_asks_for(start: Start, folder: Path) -> None:
    """`init_distributed("nccl")` comes first in many handlers."""
    pool = start("mp_size=degree", FIRST="deepspeed.init_distributed('nccl')")
    assert ask(pool, "[torch.distributed.get_backend(), torch.distributed.get_world_size()]") == ["gloo", 2]
    assert apart(pool, folder) < 1e-5


def test_nothing_is_compiled_nor_left_in_shared_memory(start: Start, folder: Path) -> None:
    """The operation that would is off; the zygote has not imported deepspeed for us."""
    before = shared_files()
    pool = start("mp_size=degree", TORCH_EXTENSIONS_DIR="/nowhere", PATH="/nowhere")
    assert apart(pool, folder) < 1e-5
    assert shared_files() == before
    assert ask(pool, "[before, deepspeed.comm.comm.cdb.shm_comm_op]") == [False, None]


def test_what_deepspeed_itself_refuses_is_told(start: Start) -> None:
    """As it says it."""
    with pytest.raises(LoadFailedError, match="no_such_thing"):
        start("mp_size=degree, no_such_thing=1")
