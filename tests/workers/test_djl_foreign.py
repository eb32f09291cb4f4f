"""The DJL dialect under an interpreter that has nothing but the standard library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import sys
from serving.workers.dialects.djl import load
from serving.workers.handler import Launch, Request
handler = load(Launch("m", "djl", sys.argv[1]))
import djl_python.decorated, djl_python.huggingface, djl_python.request, djl_python.streaming_utils
import djl_python.test_model
reply, = handler.call([Request(b'[1, 2]', {"Content-Type": "application/json"})])
print(reply.body.decode(), sorted({"numpy", "asyncio", "PIL"} & set(sys.modules)))
"""

HANDLER = """
import json
from djl_python import Input, Output

json.loads = json.dumps = None

def handle(inputs: Input) -> None:
    return None if inputs.is_empty() else Output().add_as_json(sum(inputs.get_as_json()))
"""


def test_the_standard_library_is_enough_even_patched(tmp_path: Path) -> None:
    """Neither numpy nor any other package is needed, and a handler that breaks json breaks none of ours."""
    (tmp_path / "model.py").write_text(HANDLER)
    command = [sys.executable, "-S", "-W", "error", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("3 []\n", "")
