"""Texts may be made in a thread beside the main one: its memory is kept for the next text, as the main thread's is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Blocks of half a megabyte, 30 MiB in all: as a short text takes them. Prints the page faults of each of three rounds.
CODE = """
import json, resource, sys, threading
from serving.workers.handler import Launch
from serving.workers.process_setup import set_up
set_up(Launch("m", sys.argv[1], sys.argv[2]))

def fill():
    return [bytes([1]) * (512 << 10) for _ in range(60)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

counts = []
for _ in range(3):
    before = faults()
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    counts.append(faults() - before)
print(json.dumps(counts))
"""
PAGES = 30 * 256  # of 4 KiB, in all blocks


@pytest.mark.parametrize(("dialect", "is_kept"), [("huggingface", True), ("djl", True), ("sklearn", False)])
def test_a_threads_memory_is_not_faulted_in_again_for_every_text(
    dialect: str, tmp_path: Path, *, is_kept: bool
) -> None:
    """A thread's own arena, which other dialects have, is handed back with each round and taken anew."""
    command = [sys.executable, "-c", CODE, dialect, str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True
    )
    first, *later = json.loads(done.stdout)
    assert first > PAGES / 2
    assert all((count < PAGES / 10) is is_kept for count in later), (first, later)
