#!/usr/bin/env python3
"""Turn a torch network into a Triton model: ONNX, held to torch, and where there is trtexec a TensorRT plan.

    compile_tensorrt.py resnet50/model.pt --input x:fp32:3,224,224 --out models/resnet50_trt --max-batch 12 --fp16

Takes TorchScript (.pt), torch.export (.pt2) and transformers folders. The plan's profile ends at --max-batch: a larger
one takes memory for batches that never come. Run it inside the triton image, or anywhere for the ONNX alone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import torch_to_onnx

_TRITON = {"fp32": "TYPE_FP32", "int64": "TYPE_INT64", "int32": "TYPE_INT32"}


def _input(text: str) -> tuple[str, tuple[str, list[int]]]:
    name, kind, dims = text.split(":")
    if kind not in _TRITON:
        raise ValueError(kind)
    return name, (kind, [int(dim) for dim in dims.split(",")])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="model.pt, model.pt2 or a transformers folder")
    parser.add_argument("--input", action="append", required=True, type=_input, metavar="NAME:TYPE:DIMS",
                        help="in the network's order, without the batch; TYPE is fp32, int64 or int32")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the model's folder in a Triton repository")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--fp16", action="store_true")
    parser.add_argument("--trtexec", default=shutil.which("trtexec") or "/usr/src/tensorrt/bin/trtexec")
    return parser.parse_args()


def _plan(trtexec: str, onnx: Path, plan: Path, inputs: dict[str, tuple[str, list[int]]], most: int) -> None:
    shapes = {
        which: ",".join(f"{name}:{'x'.join(map(str, (rows, *dims)))}" for name, (_, dims) in inputs.items())
        for which, rows in (("min", 1), ("opt", most), ("max", most))
    }
    command = [trtexec, f"--onnx={onnx}", f"--saveEngine={plan}", *(f"--{k}Shapes={v}" for k, v in shapes.items())]
    subprocess.run(command, check=True)


def _config(backend: str, most: int, inputs: dict[str, tuple[str, list[int]]], *, is_half: bool) -> str:
    kinds = _TRITON | ({"fp32": "TYPE_FP16"} if is_half else {})
    tensors = (f'input [ {{ name: "{n}" data_type: {kinds[k]} dims: {dims} }} ]' for n, (k, dims) in inputs.items())
    return "\n".join([f'backend: "{backend}"', f"max_batch_size: {most}", *tensors, "dynamic_batching { }", ""])


def main() -> None:
    """Export, compare, write, compile."""
    given = _arguments()
    inputs, precision, folder = dict(given.input), "fp16" if given.fp16 else "fp32", given.out / "1"
    folder.mkdir(parents=True)
    network, samples = torch_to_onnx.load(given.source), torch_to_onnx.samples_of(inputs)
    wanted = torch_to_onnx.outputs_of(network, samples)
    torch_to_onnx.export(network, samples, folder / "model.onnx", is_half=given.fp16)
    found = torch_to_onnx.difference(folder / "model.onnx", samples, wanted)
    print(f"ONNX Runtime is {found:.1e} from torch ({precision}; {torch_to_onnx.TOLERANCE[precision]:g} is allowed)")
    if found > torch_to_onnx.TOLERANCE[precision]:
        sys.exit("Too far: try without --fp16, or keep the network in torch.")
    has_plan = Path(given.trtexec).is_file()
    if has_plan:
        _plan(given.trtexec, folder / "model.onnx", folder / "model.plan", inputs, given.max_batch)
        (folder / "model.onnx").unlink()
    backend = "tensorrt" if has_plan else "onnxruntime"
    (given.out / "config.pbtxt").write_text(_config(backend, given.max_batch, inputs, is_half=given.fp16))
    print(f"{given.out}: {backend}" if has_plan else f"{given.out}: onnxruntime, as there is no {given.trtexec}")


if __name__ == "__main__":
    main()
