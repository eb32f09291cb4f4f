"""A group of ranks behind the contract: a real server, DJL's serving.properties, and a rank that is killed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from serving.workers.process_tree import families
from tests.conftest import StartServer
from tests.server import RunningServer
from tests.waiting import until
from tests.workers.causal_folders import KINDS, save_causal
from tests.workers.processes import in_background, is_alive
from tests.workers.rank_models import MODEL, shared_files

pytestmark = pytest.mark.torch


def write(server: RunningServer, name: str, properties: str) -> None:
    """Write a model of the group's kind, and load it."""
    folder = server.root / name
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "serving.properties").write_text(properties)
    answer = server.client.post("/models", json={"model_name": name, "url": f"{server.root_inside}/{name}"})
    assert answer.status_code == 200, answer.text


def invoke(server: RunningServer, name: str, code: str) -> tuple[int, str]:
    """Have all ranks evaluate an expression."""
    answer = server.client.post(f"/models/{name}/invoke", content=code, headers={"Content-Type": "text/plain"})
    return answer.status_code, answer.text


def family(server: RunningServer) -> set[int]:
    """All processes of the server process."""
    return set(families([server.server_pid()])[server.server_pid()])


def test_a_group_is_loaded_invoked_killed_and_back(start_server: StartServer) -> None:
    """503 to who waits, within a second; /ping is well meanwhile, and nobody is left."""
    server = start_server()
    shared = shared_files()
    write(server, "big", "engine=DeepSpeed\noption.tensor_parallel_degree=2\n")
    assert invoke(server, "big", "[agree(), rank]") == (200, "[\n  2,\n  0\n]")
    code = "(lambda both: (dist.all_gather_object(both, os.getpid()), both)[1])([None, None])"
    pids = [int(each) for each in invoke(server, "big", code)[1].strip("[]\n ").replace("\n", "").split(",")]
    begun = server.root / "big" / "begun-1"
    with in_background(lambda: (invoke(server, "big", "begun() or rank or time.sleep(60)"), time.monotonic())) as found:
        until(begun.exists)
        killed = time.monotonic()
        os.kill(pids[1], signal.SIGKILL)
        until(lambda: found[0])
        assert server.client.get("/ping").status_code == 200
    (status, text), answered = found[0]
    assert (status, "(rank 1)" in text) == (503, True)
    assert answered - killed < 1
    until(lambda: invoke(server, "big", "agree()") == (200, "2"))
    assert not any(map(is_alive, pids))
    assert shared_files() <= shared


def test_a_group_streams_and_is_unloaded_whole(start_server: StartServer) -> None:
    """Chunks as rank 0 yields them; a client that leaves costs nothing; DELETE ends all ranks."""
    server = start_server()
    write(server, "big", "engine=MPI\noption.tensor_parallel_degree=2\n")
    assert invoke(server, "big", "stream(3)") == (200, "0:2 1:2 2:2 ")
    with server.client.stream("POST", "/models/big/invoke", content="stream(1000000)") as answer:
        assert next(answer.iter_text()).startswith("0:2")
    until(lambda: invoke(server, "big", "agree()") == (200, "2"))
    before = family(server)
    assert server.client.delete("/models/big").status_code == 200
    assert len(before - family(server)) == 2


def test_devices_that_do_not_suffice_are_told(start_server: StartServer) -> None:
    """What was wanted, what there is, what to do."""
    server = start_server(WHARF_DEVICE="cuda", CUDA_VISIBLE_DEVICES="0")
    folder = server.root / "big"
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "serving.properties").write_text("engine=DeepSpeed\noption.tensor_parallel_degree=2\n")
    answer = server.client.post("/models", json={"model_name": "big", "url": f"{server.root_inside}/big"})
    assert answer.status_code == 500
    assert "wants 2 GPUs" in answer.text
    assert "there are 1 (CUDA_VISIBLE_DEVICES=0)" in answer.text


@pytest.mark.slow
def test_models_split_by_wharf_toml_answer_as_the_whole_ones(start_server: StartServer) -> None:
    """GPT-J, GPT-NeoX, Llama and OPT over the contract: logits to 1e-5."""
    pytest.importorskip("accelerate")
    import torch
    import transformers

    server = start_server()
    ids = [[2, 5, 6, 7, 8, 9]]
    for kind in KINDS:
        folder = save_causal(server.root, kind, tokenizer=False)
        (folder / "wharf.toml").write_text("tensor_parallel_degree = 2\n")
        url = f"{server.root_inside}/{folder.name}"
        answer = server.client.post("/models", json={"model_name": kind, "url": url})
        assert answer.status_code == 200, answer.text
        found = server.client.post(f"/models/{kind}/invoke", json={"inputs": {"input_ids": ids}}).json()["logits"]
        with torch.inference_mode():
            wanted = transformers.AutoModelForCausalLM.from_pretrained(folder)(torch.tensor(ids)).logits
        assert (torch.tensor(found) - wanted).abs().max() < 1e-5
        assert server.client.delete(f"/models/{kind}").status_code == 200
