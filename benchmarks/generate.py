"""What our server costs a language model: tokens a second and the time to the first one, beside the bare model.

One Llama-like model (50 million random weights, a token a byte), greedy, the same prompt and the same number of torch
threads in every row:

    generate     transformers' `generate` in this process; a streamer notes when a token comes. The baseline
    by hand      this process again: the model and its cache in a plain loop
    server       `"stream": true` over HTTP; a token is counted when its line has arrived here
    two ranks    with --ranks: the same, split over two processes of half the threads. A place in a ranking and no more:
                 on one machine's cores it cannot be faster

One run, in turn, round after round: the time until all tokens are there, until the first is, and between two, and
the processor time of all processes a token. Server and model are loaded anew several times: where a process's memory
happens to lie makes it up to 10 % faster or slower for as long as it lives. Medians, and the spread of the loads'
median ratios to the baseline. The goal: through the server at most 5 % more of each. On a busy machine believe the
processor time, with one thread: several wait for each other at work. `make bench-generate` runs it; it writes 200 MB to
a temporary folder. Usage: python benchmarks/generate.py [--loads 7] [--rounds 5] [--tokens 64] [--threads N] [--ranks]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rig import Server, wharf
from tests.workers.spellings import BYTES, END, byte_tokenizer

BARE, LOOP, SERVER, RANKS = "generate", "by hand", "server", "two ranks"
GOAL = 1.05
PROMPT = "The quick brown fox jumps over the lazy dog. " * 6  # 270 tokens, as a short prompt has them
Times = list[float]  # when each token came, in seconds from the start


@dataclass(frozen=True)
class Run:
    """One text: when its tokens came, and the processor time of all the processes that made it."""

    came: Times
    cpu_s: float


Cells = dict[str, list[Run]]  # of each row, what was measured between two loads


def write_model(folder: Path) -> None:
    """Write the model with its tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 640, "num_hidden_layers": 10, "num_attention_heads": 10, "intermediate_size": 1728}
    config = transformers.LlamaConfig(
        **sizes, num_key_value_heads=10, vocab_size=BYTES + 1, bos_token_id=END, eos_token_id=END, pad_token_id=END
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


class Noting:
    """A streamer that notes when a token comes; the prompt, which comes first, is none."""

    def __init__(self) -> None:
        self.came: Times = []
        self.began = perf_counter()
        self._is_prompt_due = True

    def put(self, _: Any) -> None:
        """Note a token."""
        if not self._is_prompt_due:
            self.came.append(perf_counter() - self.began)
        self._is_prompt_due = False

    def end(self) -> None:
        """Nothing more."""


def bare(model: Any, tokenizer: Any, tokens: int) -> Times:
    """Generate in this process."""
    streamer = Noting()
    inputs = tokenizer(PROMPT, return_tensors="pt")
    model.generate(**inputs, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, streamer=streamer)
    return streamer.came


def loop(model: Any, tokenizer: Any, tokens: int) -> Times:
    """Run the model and its cache in a plain loop."""
    import torch

    came: Times = []
    began = perf_counter()
    ids, cache = tokenizer(PROMPT, return_tensors="pt")["input_ids"], None
    with torch.inference_mode():
        while len(came) < tokens:
            found = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            found.logits[:, -1, END] = float("-inf")  # as min_new_tokens does
            ids, cache = found.logits[:, -1:].argmax(-1), found.past_key_values
            ids.tolist()
            came.append(perf_counter() - began)
    return came


def served(server: Server, name: str, tokens: int) -> Times:
    """Stream through the server."""
    lengths = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}
    body = json.dumps({"inputs": PROMPT, "parameters": lengths, "stream": True}).encode()
    url, headers = f"http://127.0.0.1:{server.port}/models/{name}/invoke", {"Content-Type": "application/json"}
    began = perf_counter()
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=300) as answer:
        came = [perf_counter() - began for line in answer if line]
    assert len(came) == tokens, f"{len(came)} tokens instead of {tokens}"
    return came


def rows_of(server: Server, folder: Path, tokens: int, *, has_ranks: bool) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield each row's name, and what runs it once."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    yield BARE, partial(measured, partial(bare, model, tokenizer, tokens), process_time)
    yield LOOP, partial(measured, partial(loop, model, tokenizer, tokens), process_time)
    yield SERVER, partial(measured, partial(served, server, "llama", tokens), server.cpu_s)
    if has_ranks:
        yield RANKS, partial(measured, partial(served, server, "llama_ranks", tokens), server.cpu_s)


def measured(make: Callable[[], Times], cpu_s: Callable[[], float]) -> Run:
    """Make a text, and look at a clock of processor time before and after."""
    before = cpu_s()
    came = make()
    return Run(came, cpu_s() - before)


def ratios(loads: list[Cells], name: str, key: Callable[[Run], float]) -> tuple[float, str]:
    """Return the median of a row's ratios to the baseline, a load its rounds' median, and their spread."""
    found = [
        statistics.median(key(ours) / key(theirs) for ours, theirs in zip(cells[name], cells[BARE], strict=True))
        for cells in loads
    ]
    return statistics.median(found), f"({min(found):.3f}-{max(found):.3f})"


def print_table(loads: list[Cells]) -> None:
    """Print a line a row, and how the goal was met."""
    print(f"{'':10}{'tokens/s':>9}" + "".join(f"{name + ' ms':>12}  of the baseline    " for name in MEASURES))
    for name in loads[0]:
        runs = [run for cells in loads for run in cells[name]]
        line = f"{name:10}{len(runs[0].came) / statistics.median(map(_whole, runs)):9.1f}"
        for key in MEASURES.values():
            ratio, spread = ratios(loads, name, key)
            line += f"{1000 * statistics.median(map(key, runs)):12.2f}  {ratio:5.3f} {spread:14}"
        print(line)
    found = {what: ratios(loads, SERVER, key)[0] for what, key in MEASURES.items()}
    told = ", ".join(
        f"{what} {ratio - 1:+.1%} ({'met' if ratio <= GOAL else 'missed'})" for what, ratio in found.items()
    )
    print(f"{SERVER} beside {BARE}: {told}; goal at most {GOAL - 1:+.0%}")


def _whole(run: Run) -> float:
    return run.came[-1]


def _first(run: Run) -> float:
    return run.came[0]


def _gap(run: Run) -> float:
    """The median between two tokens, which a neighbour on the machine moves least."""
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(run.came))


def _cpu(run: Run) -> float:
    return run.cpu_s / len(run.came)


MEASURES: dict[str, Callable[[Run], float]] = {"all": _whole, "first": _first, "between": _gap, "CPU": _cpu}


def measure(root: Path, rounds: int, tokens: int, *, has_ranks: bool) -> Cells:
    """Load the model anew on both sides, and run every row in turn."""
    server = wharf(root, is_pinned=False)
    try:
        rows = dict(rows_of(server, root / "llama", tokens, has_ranks=has_ranks))
        for run in rows.values():
            run()
        cells: Cells = {name: [] for name in rows}
        for number in range(rounds):  # there and back, so that nobody always follows the same one
            for name, run in list(rows.items())[:: -1 if number % 2 else 1]:
                cells[name].append(run())
    finally:
        server.stop()
    return cells


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5, help="after each load")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch's, in every row")
    parser.add_argument("--ranks", action="store_true", help="the model in two ranks, too")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "models"
        write_model(root / "llama")
        shutil.copytree(root / "llama", root / "llama_ranks", copy_function=os.link)
        (root / "llama/wharf.toml").write_text(f"max_workers = 1\nthreads = {arguments.threads}\n")
        halves = f"threads = {max(1, arguments.threads // 2)}\ntensor_parallel_degree = 2\n"
        (root / "llama_ranks/wharf.toml").write_text(halves)
        loads: list[Cells] = []
        for number in range(arguments.loads):
            print(f"load {number + 1} of {arguments.loads} ...", file=sys.stderr)
            loads.append(measure(root, arguments.rounds, arguments.tokens, has_ranks=arguments.ranks))
    print(
        f"{arguments.threads} threads, {len(PROMPT)} tokens of prompt, {arguments.tokens} made, medians of "
        f"{arguments.loads} loads, {arguments.rounds} rounds each"
    )
    print_table(loads)


if __name__ == "__main__":
    main()
