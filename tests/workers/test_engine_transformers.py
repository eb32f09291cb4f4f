"""transformers' own server as an engine: continuous batching of a real model on the CPU, where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.server import RunningServer
from tests.workers.causal_folders import save_causal
from tests.workers.processes import in_background

# What `pip install transformers[serving]` brings.
_NEEDED = ("transformers", "torch", "fastapi", "uvicorn", "openai")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in _NEEDED), reason="transformers[serving] is not installed"
    ),
]
# As docs/large-models.md has it; `transformers` is a script of the interpreter's folder.
COMMAND = (
    "{python} -m transformers.cli.transformers serve {folder}/llama --continuous-batching --cb-num-blocks 64 "
    "--cb-max-batch-tokens 256 --device cpu --host 127.0.0.1 --port {port}"
)
TEXT = "what a day"


@pytest.fixture
def server(start_server: StartServer) -> RunningServer:
    """A server with a tiny Llama behind transformers' server."""
    made = start_server(WHARF_PRELOAD="numpy")
    save_causal(made.root / "big", "llama")
    head = 'format = "engine"\nload_timeout_s = 120\nenviron = { HF_HUB_OFFLINE = "1" }\n'
    toml = f'{head}[options]\ncommand = "{COMMAND}"\n'
    (made.root / "big" / "wharf.toml").write_text(toml)
    answer = made.client.post("/models", json={"model_name": "big", "url": f"{made.root_inside}/big"})
    assert answer.status_code == 200, made.log()
    return made


def complete(server: RunningServer, text: str, **more: Any) -> Any:
    """Ask for what follows a text, greedily."""
    body = {"model": str(server.root / "big" / "llama"), "prompt": text, "max_tokens": 8, "temperature": 0}
    return server.client.post("/models/big/invoke", json=body | more).json()["choices"][0]["text"]


def generated(folder: Path, text: str) -> str:
    """Return what transformers' `generate` makes of it."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = model.generate(ids, max_new_tokens=8, do_sample=False)
    return str(tokenizer.decode(tokens[0, ids.shape[1] :], skip_special_tokens=True))


def test_eight_texts_at_once_are_what_each_is_by_itself(server: RunningServer) -> None:
    """Batched continuously, greedy text is that of `generate`."""
    texts = [TEXT + " red" * count for count in range(8)]
    with in_background(*[lambda text=text: complete(server, text) for text in texts]) as found:
        pass
    assert found == [generated(server.root / "big" / "llama", text) for text in texts]


def test_tokens_are_streamed(server: RunningServer) -> None:
    """As events, the whole of which is the text."""
    body = {
        "model": str(server.root / "big" / "llama"),
        "prompt": TEXT,
        "max_tokens": 8,
        "temperature": 0,
        "stream": True,
    }
    with server.client.stream("POST", "/models/big/invoke", json=body) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = [line for line in answer.iter_lines() if line.startswith("data: {")]
    assert len(events) >= 3
