"""What bf16 fast math does to the answers of models, beside fp32; exit status 1 where the best class changes too often.

    python benchmarks/accuracy.py ROOT [MODEL ...] [--batch 32] [--least-agreement 0.99]

Two servers over the model repository ROOT, one with the variables that allow bf16, one with those that forbid it, are
sent the same random inputs. Differences are relative to the largest fp32 output. Where there is none bf16 was not used:
the CPU has none, or the model's library does not take it there (ONNX Runtime: on arm64 alone, where it is right). Needs
nothing but numpy and the installed product, so that it runs in an image too: mount it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BF16 = {"WHARF_FAST_MATH": "true", "DNNL_DEFAULT_FPMATH_MODE": "BF16"}
FP32 = {"WHARF_FAST_MATH": "false", "DNNL_DEFAULT_FPMATH_MODE": "STRICT"}
SAMPLES = ("digits_torchscript", "digits_onnx", "resnet50_torchscript", "resnet50_onnx")
LIMIT_S = 360
COMMON = {"WHARF_REQUEST_TIMEOUT": str(LIMIT_S), "WHARF_MAX_BODY_BYTES": "512MiB", "WHARF_LOG_LEVEL": "error"}


@contextlib.contextmanager
def server(root: Path, environ: dict[str, str]) -> Iterator[str]:
    """Run a server and yield its url."""
    command = [sys.executable, "-m", "serving.cli", "serve", "--model-root", str(root), "--host", "127.0.0.1"]
    env = os.environ | COMMON | environ
    with subprocess.Popen([*command, "--port", "0"], env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = next(line.split(" on ")[1].split()[0] for line in process.stderr or () if "listening on " in line)
            while process.poll() is None:  # the port is held before anybody listens
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{url}/ping", timeout=2).close()
                    break
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.communicate()


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """GET, or POST a body; return what JSON came back, if any did."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=LIMIT_S) as reply:
        return json.loads(reply.read() or b"null")


def question(spec: dict[str, Any], batch: int) -> dict[str, Any]:
    """Return a random tensor of an input's type and shape; what is free in a shape but the batch is 16."""
    shape = [batch, *(16 if dim < 0 else dim for dim in spec["shape"][1:])]
    random = np.random.default_rng(0)
    data = random.integers(1, 100, shape) if "INT" in spec["datatype"] else random.standard_normal(shape)
    return {"name": spec["name"], "datatype": spec["datatype"], "shape": shape, "data": data.ravel().tolist()}


def scores(outputs: list[dict[str, Any]], batch: int) -> np.ndarray[Any, Any]:
    """Return the first output of numbers that has several for each row: classes, or what else can be compared."""
    arrays = [np.array(each["data"], np.float64).reshape(batch, -1) for each in outputs if "FP" in each["datatype"]]
    return max(arrays, key=lambda array: array.shape[1])


def answers(root: Path, names: list[str], batch: int, environ: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
    """Return each model's scores from a server with `environ`."""
    found = {}
    with server(root, environ) as url:
        for name in names:
            ask(f"{url}/v2/repository/models/{name}/load", {})
            inputs = [question(spec, batch) for spec in ask(f"{url}/v2/models/{name}")["inputs"]]
            found[name] = scores(ask(f"{url}/v2/models/{name}/infer", {"inputs": inputs})["outputs"], batch)
    return found


def main() -> int:
    """Ask both, print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("models", nargs="*", metavar="MODEL", default=[])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--least-agreement", type=float, default=0.99)
    wanted = parser.parse_args()
    names = wanted.models or [name for name in SAMPLES if (wanted.root / name).is_dir()]
    fast, exact = (answers(wanted.root, names, wanted.batch, each) for each in (BF16, FP32))
    least = 1.0
    for name, right in exact.items():
        apart = np.abs(fast[name] - right) / np.abs(right).max()
        agreement = float((fast[name].argmax(1) == right.argmax(1)).mean())
        note = "" if apart.any() else "  bf16 was not used"
        print(f"{name:24} max {apart.max():.1e}  mean {apart.mean():.1e}  top-1 agreement {agreement:.1%}{note}")
        least = min(least, agreement)
    return int(least < wanted.least_agreement)


if __name__ == "__main__":
    sys.exit(main())
