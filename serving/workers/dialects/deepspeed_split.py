"""A model split over a group by DeepSpeed's automatic tensor parallelism (AutoTP), and held to the whole one.

It goes by the names and shapes of layers, so it splits what no plan is for: heads that do not come out even, a single
key head, families of its own list. Where it knows a model wrongly it says nothing: so a few tokens are run before the
split and after it, and what differs is refused. Every rank reads the whole model first; plans read their part.
`huggingface_ranks` calls it in a rank; `deepspeed_shim` has amended deepspeed then.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from serving.workers.handler import HandlerError

_TOKENS = 8
# Of the largest value: measured 3e-7 (float32) and 4e-3 (bfloat16) for tiny models; a wrong split is off by far more.
_TOLERANCES = {"torch.float32": 1e-4, "torch.bfloat16": 5e-2, "torch.float16": 2e-2}


def is_here() -> bool:
    """Say whether deepspeed is installed."""
    return find_spec("deepspeed") is not None


def split(model: Any, ranks: int) -> Any:
    """Return this rank's part of `model`, which lies whole on the host; all ranks of the group must call this.

    Raises `HandlerError` where AutoTP cannot, or where the parts together answer otherwise than the whole.
    """
    import deepspeed

    kind = model.config.model_type
    model.eval()
    wanted, precision = _answer(model), str(model.dtype)
    try:
        part = deepspeed.init_inference(model, tensor_parallel={"tp_size": ranks}, dtype=model.dtype).module
        found = _answer(part)
    except Exception as fault:
        said = str(fault).strip().splitlines() or [type(fault).__name__]
        raise _refusal(kind, ranks, said[-1]) from fault
    apart = float((wanted - found).abs().max() / wanted.abs().max())
    if not apart <= _TOLERANCES.get(precision, 1e-4):
        raise _refusal(
            kind, ranks, f"its parts answer otherwise than the whole model, off by {apart:.1e} of the largest"
        )
    return part


def _answer(model: Any) -> Any:
    """Return the logits, or the last hidden states, of a few tokens."""
    import torch

    count = model.config.get_text_config().vocab_size
    ids = torch.arange(1, _TOKENS + 1, device=model.device).unsqueeze(0) % count
    with torch.inference_mode():
        return model(input_ids=ids)[0].float().cpu()


def _refusal(kind: str, ranks: int, why: str) -> HandlerError:
    return HandlerError(
        f"DeepSpeed cannot split a model of type '{kind}' over {ranks} ranks: {why:.200}. Set "
        "tensor_parallel_degree to 1, or bring a model.py."
    )
