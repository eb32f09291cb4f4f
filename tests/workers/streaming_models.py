"""Models whose tokens can be counted and held up: DJL's built-in handler bent a little, and a folder's own code.

Every run of the model puts a line into the file `runs-RANK` of its folder; the second one waits for somebody to open
the pipe `go` there, if there is one. Tests of streams use it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from serving.workers.handler import Request
from tests.waiting import until

COUNTED = """
import os
from djl_python import huggingface

def count(*_):
    with open(f"runs-{os.environ.get('RANK', '0')}", "a") as file:
        file.write("x")

def handle(inputs):
    is_new = not huggingface._service.initialized
    output = huggingface.handle(inputs)
    if is_new:
        huggingface._service.model.register_forward_pre_hook(count)
    return output
"""
HELD_CODE = """
import os
from transformers import LlamaForCausalLM

class Held(LlamaForCausalLM):
    runs = 0

    def forward(self, *inputs, **named):
        Held.runs += 1
        if Held.runs == 2:
            open("go").read()
        return super().forward(*inputs, **named)
"""


def runs(folder: Path, rank: int = 0) -> int:
    """Return how often the model ran in that rank."""
    file = folder / f"runs-{rank}"
    return len(file.read_text()) if file.exists() else 0


def hold(folder: Path) -> None:
    """Have a folder of a Llama run code of its own, which waits before its second run."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "held.Held"}}))
    (folder / "held.py").write_text(HELD_CODE)
    (folder / "wharf.toml").write_text('options = { trust_remote_code = "true" }\n')
    os.mkfifo(folder / "go")


def let_go(pipe: Path) -> None:
    """Open the pipe, as soon as somebody waits at it."""

    def is_open() -> bool:
        try:
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody yet
            return False
        return True

    until(is_open)


def asked(text: str, **extra: object) -> Request:
    """Return the request for a text's continuation."""
    body = json.dumps({"inputs": text, **extra}).encode()
    return Request(body, {"Content-Type": "application/json", "Accept": "*/*"})
