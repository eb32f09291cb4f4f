"""Measure what a model weighs while it loads and once it is ready, format by format.

Prints MiB: the file; the anonymous memory that stays after load, first run and malloc_trim; the peak until then; what
the backend predicts of both. Each line is a fresh process that loaded a tiny model of the format first, so that the
runtime's own weight is not counted. `python benchmarks/footprint.py models`, with what `build.py --set all` writes.
"""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HERE), str(HERE / "model_repo_templates")]
KINDS = ("torchscript", "export", "onnx")
# Width of a square linear layer: its megabytes.
WIDTHS = {"linear_0mb": 64, "linear_1mb": 512, "linear_20mb": 2236}
MODELS = ("linear_1mb", "linear_20mb", "digits", "resnet50", "bert_base")


def build_linear(name: str, kind: str, folder: Path) -> None:
    import torch
    import torch_formats

    network, samples = torch.nn.Linear(WIDTHS[name], WIDTHS[name]).eval(), {"input": torch.ones(2, WIDTHS[name])}
    folder.mkdir(parents=True)
    getattr(torch_formats, f"save_{kind}")(network, samples, {"input": (0,)}, ("output",), folder)


def load(folder: Path):
    from serving.backends.onnx import OnnxBackend
    from serving.backends.torch import TorchBackend
    from serving.repository.layouts import describe

    spec = describe(folder.name, folder)
    backend = (OnnxBackend if spec.format == "onnx" else TorchBackend)("cpu", 1)
    return spec.bytes, backend.footprint(spec), backend.load(spec)


def run(model) -> None:
    shapes = {spec.name: [32 if dim == -1 else dim for dim in spec.dims[1:]] for spec in model.signature.inputs}
    model.run({spec.name: np.ones([1, *shapes[spec.name]], spec.numpy_dtype) for spec in model.signature.inputs})


def memory(field: str) -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def measure(folder: Path, tiny: Path) -> None:
    _, _, warm = load(tiny)
    run(warm)
    anon, resident = memory("RssAnon"), memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM afresh
    size, predicted, model = load(folder)
    run(model)
    peak = memory("VmHWM") - resident
    figures = size, memory("RssAnon") - anon, predicted.resident_bytes, peak, predicted.peak_bytes
    shown = [figure / 2**20 if isinstance(figure, int) else figure for figure in figures]
    print(f"{folder.name:24}" + "".join(f"{figure:11.1f}" for figure in shown), flush=True)


def main(repository: Path) -> None:
    print(f"{'MiB':24}" + "".join(f"{head:>11}" for head in ("file", "resident", "predicted", "peak", "predicted")))
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS:
            for name in WIDTHS:
                build_linear(name, kind, Path(scratch, f"{name}_{kind}"))
            for name in MODELS:
                folder = Path(scratch if name in WIDTHS else repository, f"{name}_{kind}")
                if folder.is_dir():
                    tiny = Path(scratch, f"linear_0mb_{kind}")
                    subprocess.run([sys.executable, __file__, str(folder), str(tiny)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1])) if len(sys.argv) == 2 else measure(Path(sys.argv[1]), Path(sys.argv[2]))
