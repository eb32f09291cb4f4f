"""DeepSpeed in a rank: what people's `deepspeed.init_inference` needs on this machine, and does not do by itself.

Nothing here imports deepspeed: `watch` waits until people's code (or a dialect) does, then amends what it finds.

1. All-reduces go over gloo. DeepSpeed's shared-memory operation wants a compiler at run time or to be prebuilt, a CPU
   with AVX-512, 66 MiB of /dev/shm for each rank, and lets the survivors of a dead rank spin for ever.
   `DS_BUILD_SHM_COMM=1` has it all the same, where /dev/shm has the room.
2. Without CUDA: kernel injection and CUDA graphs are off, float16 is float32, nccl is gloo. A line says each.
3. Arguments that older versions took and 0.19 does not are left out, or said as it takes them.
4. An engine has what its model has (`device`, `config`, ...), which transformers' pipelines ask it for; its forward
   runs without gradients, as split layers are written in place.

Called by `process_setup` in every rank. Standard library alone, CPython 3.9 on. The GPU's half is unverified.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from serving import dev_shm
from serving.workers.handler import HandlerError

_NAME = "deepspeed"


def watch(device: str) -> None:
    """Have deepspeed amended for a rank on `device` (`cpu` or `cuda`) as soon as it is imported, or now if it is."""
    is_cpu = device == "cpu"
    if is_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it would take a GPU that it can see
    if _NAME in sys.modules:
        _amend(sys.modules[_NAME], is_cpu=is_cpu)
    else:
        sys.meta_path.insert(0, _Finder(is_cpu=is_cpu))


class _Finder:
    """Finds deepspeed where the other finders do, and amends it once it has run."""

    def __init__(self, *, is_cpu: bool) -> None:
        self._is_cpu = is_cpu

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != _NAME:
            return None
        others = [each for each in sys.meta_path if each is not self]
        spec = next(filter(None, (each.find_spec(name, path, target) for each in others)), None)
        loader: Any = spec and spec.loader
        if loader is not None:
            loader.exec_module = functools.partial(self._run, loader.exec_module)
        return spec

    def _run(self, execute: Callable[[ModuleType], None], module: ModuleType) -> None:
        execute(module)
        _amend(module, is_cpu=self._is_cpu)


def _amend(deepspeed: Any, *, is_cpu: bool) -> None:
    if not hasattr(deepspeed, "InferenceEngine"):  # people's own module, by the same name
        return
    backend: Any = sys.modules.get("deepspeed.comm.torch")  # as an attribute it is hidden by torch itself
    if hasattr(backend, "build_shm_op"):  # 1
        backend.build_shm_op = functools.partial(_build_shm_op, backend.build_shm_op)
    if is_cpu:  # 2
        deepspeed.init_distributed = deepspeed.comm.init_distributed = _over_gloo(deepspeed.init_distributed)
    deepspeed.init_inference = _init_inference(deepspeed.init_inference, is_cpu=is_cpu)  # 2, 3
    _open_engine(deepspeed.InferenceEngine)  # 4


# ---- 1: the shared-memory operation ------------------------------------------------------------------------------


def _build_shm_op(build: Callable[[], Any]) -> Any:
    if not dev_shm.is_switched_on(os.environ):
        return None
    if shortage := dev_shm.shortage(int(os.environ["LOCAL_SIZE"]), os.environ, is_cpu=True):
        raise HandlerError(shortage)
    return build()


# ---- 2 and 3: arguments --------------------------------------------------------------------------------------------


def _over_gloo(init_distributed: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init_distributed)
    def initialise(dist_backend: Any = None, *arguments: Any, **options: Any) -> None:
        if dist_backend == "nccl":
            _note("init_distributed('nccl') is gloo: there is no CUDA")
            dist_backend = "gloo"
        init_distributed(dist_backend, *arguments, **options)

    return initialise


def _init_inference(init_inference: Callable[..., Any], *, is_cpu: bool) -> Callable[..., Any]:
    @functools.wraps(init_inference)
    def initialise(model: Any, config: Any = None, **options: Any) -> Any:
        if isinstance(config, (str, Path)):
            config = json.loads(Path(config).read_text("utf-8"))
        settings = {**(config or {}), **options}
        _modernise(settings)
        settings.setdefault("dtype", getattr(model, "dtype", None) or sys.modules["torch"].float32)
        if is_cpu:
            _keep_to_cpu(settings)
        return init_inference(model, config=settings)

    return initialise


def _modernise(settings: dict[str, Any]) -> None:
    """Say in 0.19's words what was said in those of 0.6 to 0.18."""
    for name in ("dtype", "replace_method"):  # None meant the default, and a dtype's was the model's own
        if name in settings and settings[name] is None:
            del settings[name]
    if settings.pop("quantization_setting", None) is not None:
        _note("quantization_setting is left out: DeepSpeed has dropped it")
    if isinstance(settings.get("moe_experts"), int):
        settings["moe_experts"] = [settings["moe_experts"]]


def _keep_to_cpu(settings: dict[str, Any]) -> None:
    for name in ("replace_with_kernel_inject", "kernel_inject", "enable_cuda_graph"):
        if settings.get(name):
            _note(f"{name} is off: there is no CUDA")
            settings[name] = False
    torch = sys.modules["torch"]
    if settings.get("dtype") in (torch.float16, "fp16", "half", "float16", "torch.float16", "torch.half"):
        # Few CPUs compute in it, and DeepSpeed refuses it on the others: the same answers everywhere.
        _note("dtype float16 is float32: there is no CUDA")
        settings["dtype"] = torch.float32


# ---- 4: the engine -------------------------------------------------------------------------------------------------


def _open_engine(engine: Any) -> None:
    torch = sys.modules["torch"]
    find = torch.nn.Module.__getattr__

    def find_in_module(self: Any, name: str) -> Any:
        try:
            return find(self, name)
        except AttributeError:
            if name == "module":  # not there yet
                raise
            return getattr(self.module, name)

    engine.__getattr__ = find_in_module
    engine.forward = torch.no_grad()(engine.forward)


def _note(what: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"wharf: deepspeed: {what}", file=sys.stderr, flush=True)  # noqa: T201  the model's log
