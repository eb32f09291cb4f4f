"""What a worker costs: its start against a fresh Python process, its memory beside 23 others, its channel a request.

    start    POST /models to the first answer, for two handlers that load a BERT-base class model (110 million weights):
             one in plain torch (meta device, memory-mapped weights), one by transformers' from_pretrained. Against it,
             in turn: a fresh Python that imports the same handler, loads the same folder and answers the same request.
    density  24 workers on the same weights: proportional set size (PSS) of each, and of 4 spawned ones
    channel  round trips of a tiny request and of a 600 KB tensor, one connection, in process and in a worker

`make bench` runs it. Needs torch and transformers; writes 870 MB to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import wharf
from tests.models import make_fake

NETWORK = '''
import torch
from torch import nn


class Bert(nn.Module):
    """BERT-base's sizes: 12 layers of 768, 12 heads, 30,522 words."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(30522, 768), nn.Embedding(512, 768), nn.LayerNorm(768)
        layer = lambda: nn.TransformerEncoderLayer(768, 12, 3072, 0.0, "gelu", batch_first=True)
        self.layers = nn.ModuleList([layer() for _ in range(12)])
        self.head = nn.Linear(768, 2)

    def forward(self, ids):
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])
'''
REST = """
def input_fn(body, content_type):
    return torch.tensor(json.loads(body)["ids"])


def output_fn(prediction, accept):
    return json.dumps(prediction.tolist())
"""
TORCH_HANDLER = f"""
import json
import torch
from network import Bert


def model_fn(model_dir):
    with torch.device("meta"):
        model = Bert()
    model.load_state_dict(torch.load(model_dir + "/weights.pth", mmap=True), assign=True)
    return model.eval()


def predict_fn(data, model):
    with torch.no_grad():
        return model(data)

{REST}"""
TRANSFORMERS_HANDLER = f"""
import json
import torch
from transformers import BertForSequenceClassification


def model_fn(model_dir):
    return BertForSequenceClassification.from_pretrained(model_dir).eval()


def predict_fn(data, model):
    with torch.no_grad():
        return model(data).logits

{REST}"""
FRESH = """
import sys
sys.path.insert(0, sys.argv[1] + "/code")
import inference
model = inference.model_fn(sys.argv[1])
data = inference.input_fn(sys.argv[2], "application/json")
print(inference.output_fn(inference.predict_fn(data, model), "application/json"), flush=True)
sys.stdin.read()
"""
BODY = json.dumps({"ids": [[101, 7592, 2088, 102, 0, 0, 0, 0]]})
ECHO = """
def model_fn(model_dir):
    return None


def transform_fn(model, body, content_type, accept):
    return body[:4000], content_type
"""


def write_models(root: Path) -> None:
    """Write the two BERT-base models (seeded random weights) and the echo beside the fake model."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    for name, handler in (("torch", TORCH_HANDLER), ("transformers", TRANSFORMERS_HANDLER), ("echo", ECHO)):
        (root / name / "code").mkdir(parents=True)
        (root / name / "code" / "inference.py").write_text(handler)
    (root / "torch" / "code" / "network.py").write_text(NETWORK)
    scope: dict[str, Callable[[], torch.nn.Module]] = {}
    exec(NETWORK, scope)
    torch.save(scope["Bert"]().state_dict(), root / "torch" / "weights.pth")
    BertForSequenceClassification(BertConfig(num_labels=2)).save_pretrained(root / "transformers")
    make_fake(root, "take", dims=[150_000], take=1000, scale=1.0)


def shown(values: list[float], unit: str, scale: float = 1.0) -> str:
    """Write median and spread."""
    low, high = min(values) * scale, max(values) * scale
    return f"{statistics.median(values) * scale:8.0f} {unit} ({low:.0f}-{high:.0f})"


def fresh_process(folder: Path) -> tuple[float, str, subprocess.Popen[str]]:
    """Return the seconds from the start of a Python process to its first answer, the answer, and the process."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", FRESH, str(folder), BODY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    answer = process.stdout.readline()
    return time.perf_counter() - started, answer, process


def end(process: subprocess.Popen[str]) -> None:
    """End a fresh process."""
    process.communicate("")


def one_start(client: httpx.Client, name: str, folder: Path) -> tuple[float, str]:
    """Return the seconds from POST /models to the first answer, and the answer."""
    started = time.perf_counter()
    client.post("/models", json={"model_name": name, "url": str(folder)}).raise_for_status()
    answer = client.post(f"/models/{name}/invoke", content=BODY, headers={"Content-Type": "application/json"})
    return time.perf_counter() - started, answer.raise_for_status().text


def start(client: httpx.Client, root: Path, rounds: int) -> None:
    """Print starts side by side, in turn."""
    one_start(client, "torch", root / "torch")  # the zygote's own start is paid by the first model of a server's life
    client.delete("/models/torch")
    for name in ("torch", "transformers"):
        ours, theirs = [], []
        for _ in range(rounds):
            seconds, answer = one_start(client, name, root / name)
            ours.append(seconds)
            client.delete(f"/models/{name}").raise_for_status()
            seconds, their_answer, process = fresh_process(root / name)
            theirs.append(seconds)
            end(process)
            close = np.allclose(json.loads(answer), json.loads(their_answer), atol=1e-4)
            assert close, f"{answer} and {their_answer} differ"
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"{name:13} worker {shown(ours, 'ms', 1e3)}, fresh process {shown(theirs, 'ms', 1e3)}: {ratio:.1f} times")
    print("(goal: at least 8 times; 250 ms on an idle machine)")


def pss_mib(pid: int) -> float:
    """Return a process' proportional set size."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def workers_of(server_pid: int) -> list[int]:
    """Return the worker processes below a server: the grandchildren whose title says so."""
    found, queue = [], [server_pid]
    while queue:
        pid = queue.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                queue += map(int, (task / "children").read_text().split())
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"wharf worker"):
                found.append(pid)
        except OSError:
            continue
    return found


def density(client: httpx.Client, root: Path, server_pid: int, count: int) -> None:
    """Print what each of many workers on one file of weights adds."""
    for number in range(count):
        one_start(client, f"bert{number}", root / "torch")
    shares = [pss_mib(pid) for pid in workers_of(server_pid)]
    for number in range(count):
        client.delete(f"/models/bert{number}")
    spawned = [fresh_process(root / "torch")[2] for _ in range(4)]
    theirs = [pss_mib(process.pid) for process in spawned]
    for process in spawned:
        end(process)
    ours = f"{len(shares)} workers {shown(shares, 'MiB PSS each')} (goal: at most 60)"
    print(f"{ours}, fresh processes {shown(theirs, 'MiB')}")


def trips(port: int, name: str, body: bytes, content_type: str, count: int) -> float:
    """Return the median round trip in microseconds, over a bare connection: a client library costs more than we do."""
    head = (
        f"POST /models/{name}/invoke HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nAccept: {content_type}\r\n"
    )
    message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    times = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            started = time.perf_counter()
            connection.sendall(message)
            answer = connection.recv(1 << 16)  # answers are under 5 KB
            times.append(time.perf_counter() - started)
            assert answer.startswith(b"HTTP/1.1 200"), answer
    return statistics.median(times) * 1e6


def channel(client: httpx.Client, root: Path, port: int, rounds: int) -> None:
    """Print what a request pays for going to another process and back."""
    for name in ("take", "echo"):
        client.post("/models", json={"model_name": name, "url": str(root / name)}).raise_for_status()
    raw = "application/octet-stream"
    tiny = b'{"instances": [[1, 2, 3]]}'
    make_fake(root, "tiny", dims=[3])
    client.post("/models", json={"model_name": "tiny", "url": str(root / "tiny")}).raise_for_status()
    cases = (("tiny JSON", "tiny", tiny, "application/json", 120), ("600 KB tensor", "take", bytes(600_000), raw, 400))
    for title, inside_name, body, content_type, goal in cases:
        inside, outside = [], []
        for _ in range(rounds):
            inside.append(trips(port, inside_name, body, content_type, 300))
            outside.append(trips(port, "echo", body, content_type, 300))
        added = statistics.median(outside) - statistics.median(inside)
        print(
            f"{title:13} in process {shown(inside, 'us')}, in a worker {shown(outside, 'us')}: "
            f"{added:.0f} us added (goal: at most {goal})"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="?", help="not used; `make bench` gives it to every benchmark")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=24)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        write_models(root)
        server = wharf(
            root, SAGEMAKER_MULTI_MODEL="true", WHARF_ACCESS_LOG="off", WHARF_MAX_WORKERS="1", is_pinned=False
        )
        client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=120)
        try:
            start(client, root, arguments.rounds)
            density(client, root, server.process.pid, arguments.workers)
            channel(client, root, server.port, arguments.rounds)
        finally:
            client.close()
            server.stop()


if __name__ == "__main__":
    main()
