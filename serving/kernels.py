"""Which kernels the numeric libraries really use here: one small operation in a process of its own, looked at.

Variables and documentation say what should happen. oneDNN, which TensorFlow and torch compute with, prints a line for
each primitive that it runs when ONEDNN_VERBOSE is 1, with the name of the implementation (`gemm:acl`, `jit:uni`); ONNX
Runtime prints nothing. Whether bf16 was used the result tells, of each library: a convolution's and a matrix product's
largest difference from the same in fp64. Called by `diagnosis`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

# Of the largest element: fp32 differs from fp64 by some 1e-6 here, bf16 (8 bits) by some 2e-3: docs/graviton.md.
FP32_DIFFERENCE = 1e-5
# Ten times what bf16's rounding makes of a long product; more is no rounding.
BF16_DIFFERENCE = 3e-2
# An emulated CPU takes 40 s to import TensorFlow while the machine is busy.
_LIMIT_S = 180.0
_SKIPPED = ("reorder",)  # moves weights, computes nothing
_LINE = re.compile(r"^(?:onednn|dnnl)_verbose,.*?\bexec,cpu,(\w+),([^,]*),(.*)$", re.MULTILINE)
_ISA = re.compile(r"^(?:onednn|dnnl)_verbose,.*?\binfo,cpu,isa:(.*)$", re.MULTILINE)
_RESULT = re.compile(r"^wharf-kernels (\{.*\})$", re.MULTILINE)

_PRODUCT = """
import json, numpy as np
rng = np.random.default_rng(0)
a, w = rng.standard_normal((64, 512), np.float32), rng.standard_normal((512, 64), np.float32)
x, k = rng.standard_normal((4, 16, 16, 16), np.float32), rng.standard_normal((3, 3, 16, 32), np.float32)
wide = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
sums = sum(wide[:, i:i + 16, j:j + 16] @ k[i, j] for i in range(3) for j in range(3))
def report(version, product, convolution=None):
    pairs = [(product, a.astype(np.float64) @ w)] + ([] if convolution is None else [(convolution, sums)])
    difference = max(float(np.abs(y - exact).max() / np.abs(exact).max()) for y, exact in pairs)
    print("\\nwharf-kernels " + json.dumps({"version": version, "difference": difference}), flush=True)
"""
_TENSORFLOW = """
import tensorflow as tf
k, w, zero = tf.Variable(k), tf.Variable(w), tf.Variable(np.zeros(64, np.float32))
@tf.function
def run(x, a):
    return tf.nn.conv2d(x, k, 1, "SAME"), tf.nn.bias_add(tf.matmul(a, w), zero)
convolution, product = run(tf.constant(x), tf.constant(a))
report(tf.__version__, product.numpy(), convolution.numpy())
"""
_TORCH = """
import torch
with torch.inference_mode():
    image, kernel = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(k).permute(3, 2, 0, 1)
    convolution = torch.nn.functional.conv2d(image, kernel, padding=1).permute(0, 2, 3, 1)
    report(torch.__version__, (torch.from_numpy(a) @ torch.from_numpy(w)).numpy(), convolution.numpy())
"""
# A product of two inputs, `a` [64, 512] and `w` [512, 64], to `y`: a computed second factor longer than 256. As onnx's
# own helper writes it; tests/unit/test_kernels.py compares.
MATMUL = bytes.fromhex(
    "08083a5d0a110a01610a017712017922064d61744d756c120770726f647563745a140a0161120f0a0d080112090a0208400a030880045a140a01"
    "77120f0a0d080112090a030880040a02084062130a0179120e0a0c080112080a0208400a02084042040a00100d"
)
_ONNX = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
if FAST:
    options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
session = onnxruntime.InferenceSession(MODEL, options, ["CPUExecutionProvider"])
report(onnxruntime.__version__, session.run(None, {"a": a, "w": w})[0])
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A primitive that ran: oneDNN's names of the operation and of the implementation; `gemm_api` has none there."""

    operation: str
    implementation: str
    is_bf16: bool


@dataclass(frozen=True, slots=True)
class Library:
    """What a library used: `difference` from fp64, relative to the largest element; `trouble` where it did not run."""

    name: str
    version: str = ""
    isa: str = ""
    kernels: tuple[Kernel, ...] = ()
    difference: float | None = None
    trouble: str = ""

    @property
    def precision(self) -> str:
        """Return `fp32`, `bf16` or `wrong`, as the result tells; empty where there is none."""
        if self.difference is None:
            return ""
        if self.difference < FP32_DIFFERENCE:
            return "fp32"
        return "bf16" if self.difference < BF16_DIFFERENCE else "wrong"


def look(environ: Mapping[str, str], *, has_onnx_bf16: bool, limit_s: float = _LIMIT_S) -> list[Library]:
    """Run the operation with every library that is installed, each in a process with `environ`; 1 to 10 s each."""
    onnx = _ONNX.replace("FAST", str(has_onnx_bf16)).replace("MODEL", repr(MATMUL))
    scripts = {"tensorflow": _TENSORFLOW, "torch": _TORCH, "onnxruntime": onnx}
    return [
        _run(name, _PRODUCT + script, environ, limit_s)
        for name, script in scripts.items()
        if importlib.util.find_spec(name) is not None
    ]


def _run(name: str, script: str, environ: Mapping[str, str], limit_s: float) -> Library:
    env = {**environ, "ONEDNN_VERBOSE": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-c", script]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return Library(name, trouble=f"no answer within {limit_s:g} s")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1][:300]
        return Library(name, trouble=f"its process ended with status {done.returncode}: {last}")
    return parse(name, done.stdout)


def parse(name: str, output: str) -> Library:
    """Read what a library's process printed: oneDNN's lines and ours."""
    found, isa = _RESULT.search(output), _ISA.search(output)
    if found is None:
        return Library(name, trouble="its process gave no result")
    result = json.loads(found[1])
    kernels = dict.fromkeys(
        Kernel(operation, implementation or "not named", bool(re.search(r"\bwei[:_]bf16", rest)))
        for operation, implementation, rest in _LINE.findall(output)
        if operation not in _SKIPPED
    )
    return Library(name, result["version"], isa[1] if isa else "", tuple(kernels), result["difference"])
