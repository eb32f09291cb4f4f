"""An engine behind the contract: a real server, and a process that speaks vLLM's routes instead of vLLM."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.backends.engine import _keys
from serving.workers.dialects.engine import _claimed, _environ, _filled, _free_port
from serving.workers.process_tree import families
from tests.conftest import StartServer
from tests.server import RunningServer
from tests.waiting import until
from tests.workers.processes import in_background, is_alive

TEMPLATE = Path(__file__).resolve().parents[2] / "model_repo_templates" / "handlers" / "engine"
CHAT = {"model": "big", "messages": [{"role": "user", "content": "count"}]}
PROMPT = {"model": "big", "prompt": "count"}


def write(server: RunningServer, more: str = "", flags: str = "") -> None:
    """Copy the template as `big`, with lines before its options and flags for the stand-in."""
    folder = server.root / "big"
    shutil.copytree(TEMPLATE, folder)
    toml = (folder / "wharf.toml").read_text().replace("load_timeout_s = 600\n", more or "load_timeout_s = 60\n")
    (folder / "wharf.toml").write_text(toml.replace("stand_in.py serve", f"stand_in.py serve {flags}"))


def load(server: RunningServer) -> httpx.Response:
    """Register it."""
    return server.client.post("/models", json={"model_name": "big", "url": f"{server.root_inside}/big"})


def ask(server: RunningServer, body: dict[str, Any], **headers: str) -> httpx.Response:
    """Invoke it."""
    return server.client.post("/models/big/invoke", json=body, headers=headers)


def engine(server: RunningServer) -> int:
    """Ask which process answers."""
    return int(ask(server, PROMPT).headers["X-Process"])


@pytest.fixture
def server(start_server: StartServer) -> RunningServer:
    """A server with the engine loaded."""
    made = start_server(WHARF_PRELOAD="numpy")
    write(made)
    assert load(made).status_code == 200, made.log()
    return made


def test_a_body_tells_the_route_and_is_handed_on_as_it_is(server: RunningServer) -> None:
    """Messages are a chat, a prompt a completion, an input an embedding; the answer is the engine's own."""
    chat = ask(server, CHAT | {"max_tokens": 3})
    assert chat.json()["choices"][0]["message"] == {"role": "assistant", "content": " 0 1 2"}
    assert chat.json()["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    assert ask(server, PROMPT).json()["choices"][0]["text"] == " 0 1 2 3"
    assert ask(server, {"input": "count"}).json()["data"][0]["embedding"] == [0.5, 0.25]
    assert chat.headers["Content-Type"] == "application/json"


def test_a_custom_attribute_names_the_route(server: RunningServer) -> None:
    """One of those that are known, else 400 with their names."""
    header = "X-Amzn-SageMaker-Custom-Attributes"
    body = {"prompt": "count", "messages": []}
    assert "text" in ask(server, body, **{header: "a=b;route=/v1/completions"}).json()["choices"][0]
    for named in ("/v1/load_lora_adapter", "", "/"):
        refused = ask(server, body, **{header: f"route={named}"})
        assert refused.status_code == 400
        assert f"no route '{named}': name one of /v1/chat/completions, /v1/" in refused.json()["error"]


@pytest.mark.parametrize("body", [b"", b"[1]", b'{"text": 1}', b"[" * 100_000])
def test_a_body_that_tells_no_route_is_400_with_what_was_wanted(server: RunningServer, body: bytes) -> None:
    """It never reaches the engine."""
    answer = server.client.post("/models/big/invoke", content=body)
    assert (answer.status_code, "messages, prompt, input" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        (b'{"model": "a", "prompt" : "messages", "n": 1}', ["model", "prompt", "n"]),
        (b' {"a": {"b": [{"c": 1}]}, "d": "\\"e\\": {", "f\\"g": "\\\\", "h": []}', ["a", "d", 'f\\"g', "h"]),
        (b'[{"a": 1}]', []),
        (b'"a": 1', []),
        (b'{"a": "' + b'\\"' * 1_000_000, ["a"]),
        (b'{"a": [' + b"[]," * 1_000_000 + b'1], "b": 1}', ["a"]),
    ],
)
def test_only_the_outermost_keys_of_a_body_are_looked_for(body: bytes, keys: list[str]) -> None:
    """Strings and brackets are passed over, up to a number, and nothing is built of them."""
    tracemalloc.start()
    try:
        assert list(_keys(body)) == keys
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_engines_errors_come_with_their_status_and_words(server: RunningServer) -> None:
    """404 for a model that it has not, 400 for a bad figure, 429 and 503 with Retry-After."""
    wrong = ask(server, CHAT | {"model": "other"})
    assert (wrong.status_code, wrong.json()["error"]["message"]) == (404, "The model `other` does not exist.")
    assert ask(server, PROMPT | {"max_tokens": 0}).json()["error"]["type"] == "BadRequestError"
    for status in (429, 503):
        refused = ask(server, PROMPT | {"fail": status})
        assert (refused.status_code, refused.headers["Retry-After"]) == (status, "1")


def test_a_stream_goes_out_event_by_event(server: RunningServer) -> None:
    """As OpenAI's clients read it, to its [DONE]."""
    body = CHAT | {"stream": True, "max_tokens": 3, "stream_options": {"include_usage": True}}
    with server.client.stream("POST", "/models/big/invoke", json=body) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    deltas = [json.loads(each)["choices"][0]["delta"]["content"] for each in events[:3]]
    assert (deltas, events[4]) == ([" 0", " 1", " 2"], "[DONE]")
    assert json.loads(events[3])["usage"] == {"completion_tokens": 3}


def test_a_client_that_leaves_its_stream_ends_the_engines_request(server: RunningServer) -> None:
    """The first event is there while the engine still makes others; it hears that nobody wants them."""
    body = PROMPT | {"stream": True, "max_tokens": 10**9}
    with server.client.stream("POST", "/models/big/invoke", json=body) as answer:
        assert json.loads(next(answer.iter_lines()).removeprefix("data: "))["choices"][0]["text"] == " 0"
    until(lambda: "Aborted request" in server.log())


def test_eight_requests_are_in_the_engine_at_once(server: RunningServer) -> None:
    """Each waits there until all are: they would never be answered one by one."""
    body = PROMPT | {"wait_for": 8}
    with in_background(*[lambda: ask(server, body).status_code] * 8) as found:
        pass
    assert found == [200] * 8


def test_an_engine_that_crashes_answers_503_and_is_back(server: RunningServer) -> None:
    """Who waits hears it at once, its last words are in the log, and another one is started."""
    first = engine(server)
    with in_background(lambda: ask(server, PROMPT | {"wait_for": 99})) as waiting:
        until(lambda: ask(server, PROMPT | {"wait_for": 2}).status_code == 200)
        began = time.monotonic()
        crashed = ask(server, PROMPT | {"fail": "crash"})
        assert time.monotonic() - began < 1
    assert [crashed.status_code, waiting[0].status_code] == [503, 503]
    assert "it is being replaced: try again" in crashed.json()["error"]
    until(lambda: ask(server, PROMPT).status_code == 200)
    assert engine(server) != first
    assert server.client.get("/ping").status_code == 200
    assert "illegal memory access" in server.log()


def test_an_engine_that_crashes_within_its_answer_is_503(server: RunningServer) -> None:
    """Its status and length were there; a body that is cut is nobody's answer."""
    cut = ask(server, PROMPT | {"fail": "cut"})
    assert (cut.status_code, "ended before it had answered" in cut.json()["error"]) == (503, True)


def test_a_stream_breaks_off_when_the_engine_is_killed(server: RunningServer) -> None:
    """The client sees a broken body or an early end, never a hang."""
    pid = engine(server)
    body = PROMPT | {"stream": True, "max_tokens": 10**9}
    with server.client.stream("POST", "/models/big/invoke", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        os.kill(pid, signal.SIGKILL)
        try:
            last = [line for line in lines if line][-1:]
        except httpx.TransportError:
            last = []
    assert last != ["data: [DONE]"]
    until(lambda: ask(server, PROMPT).status_code == 200)


def test_a_request_that_takes_too_long_is_503_and_the_engine_stays(start_server: StartServer) -> None:
    """It is well, as its health says: others go on."""
    server = start_server(WHARF_PRELOAD="numpy")
    write(server, "load_timeout_s = 60\npredict_timeout_s = 1\n")
    assert load(server).status_code == 200
    pid = engine(server)
    late = ask(server, PROMPT | {"wait_for": 99})
    assert (late.status_code, "predict_timeout_s" in late.json()["error"]) == (503, True)
    assert engine(server) == pid


def test_an_answer_that_trickles_in_has_no_more_time_than_others(start_server: StartServer) -> None:
    """Each byte comes within the time, the whole does not."""
    server = start_server(WHARF_PRELOAD="numpy")
    write(server, "load_timeout_s = 60\npredict_timeout_s = 2\n")
    assert load(server).status_code == 200
    began = time.monotonic()
    late = ask(server, PROMPT | {"takes": 5})
    assert (late.status_code, time.monotonic() - began < 4) == (503, True)


def test_an_engine_that_hangs_is_replaced_and_nobody_waits_for_that(start_server: StartServer) -> None:
    """Stopped as a whole it answers neither the requests, which hear that at their deadline, nor for its health."""
    server = start_server(WHARF_PRELOAD="numpy")
    write(server, "load_timeout_s = 60\npredict_timeout_s = 2\n")
    assert load(server).status_code == 200
    pid = engine(server)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with in_background(*[lambda: (ask(server, PROMPT).status_code, time.monotonic() - began)] * 4) as found:
        pass
    assert [(status, waited_s < 4) for status, waited_s in found] == [(503, True)] * 4
    until(lambda: ask(server, PROMPT).status_code == 200, 60)
    assert engine(server) != pid
    assert not is_alive(pid)
    assert server.log().count("event=engine_unwell model=big") == 1


def test_an_engine_whose_health_takes_longer_than_a_request_may_stays(start_server: StartServer) -> None:
    """Health has a time of its own, and the worker no part in it."""
    server = start_server(WHARF_PRELOAD="numpy")
    write(server, "load_timeout_s = 60\npredict_timeout_s = 1\n")
    assert load(server).status_code == 200
    pid = engine(server)
    assert ask(server, PROMPT | {"wait_for": 99, "health_takes": 2}).status_code == 503
    until(lambda: "slow, and well" in server.log())
    assert engine(server) == pid
    assert "event=worker_hung" not in server.log()


def test_an_unload_leaves_no_process(server: RunningServer) -> None:
    """Neither the worker nor its engine."""
    pid = engine(server)
    before = set(families([server.server_pid()])[server.server_pid()])
    assert pid in before
    assert server.client.delete("/models/big").status_code == 200
    after = set(families([server.server_pid()])[server.server_pid()])
    assert (len(before - after), is_alive(pid)) == (2, False)


def test_a_worker_that_is_killed_takes_its_engine_along(server: RunningServer) -> None:
    """No orphan; the next one has its own."""
    pid = engine(server)
    owner = int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])
    os.kill(owner, signal.SIGKILL)
    until(lambda: not is_alive(pid))
    until(lambda: ask(server, PROMPT).status_code == 200)


def test_the_engines_memory_is_the_models(start_server: StartServer) -> None:
    """What the engine holds is in the model's reservation."""
    server = start_server(WHARF_PRELOAD="numpy")
    write(server, flags="--holds-mib 80")
    assert load(server).status_code == 200
    assert int(re.findall(r"event=loaded model=big .* bytes=(\d+)", server.log())[0]) > 80 << 20


def test_a_start_within_the_load_timeout_is_waited_for(start_server: StartServer) -> None:
    """It listens before it is well."""
    server = start_server(WHARF_PRELOAD="numpy")
    write(server, flags="--starts-in 1")
    assert load(server).status_code == 200
    assert ask(server, PROMPT).status_code == 200


def test_a_start_beyond_the_load_timeout_is_504_and_leaves_nothing(start_server: StartServer) -> None:
    """With the next step."""
    server = start_server(WHARF_PRELOAD="numpy")
    write(server, "load_timeout_s = 1\n", flags="--starts-in 60")
    before = set(families([server.server_pid()])[server.server_pid()])
    answer = load(server)
    assert (answer.status_code, "load timeout" in answer.json()["error"]) == (504, True)
    until(lambda: len(set(families([server.server_pid()])[server.server_pid()]) - before) <= 1)  # the zygote


@pytest.mark.parametrize(
    ("command", "said"),
    [("no-such-server --port {port}", "have it in your image"), ("{python} -c 1 {port}", "ended with status 0")],
)
def test_an_engine_that_does_not_start_is_told(start_server: StartServer, command: str, said: str) -> None:
    """500 for the load, in words."""
    server = start_server(WHARF_PRELOAD="numpy")
    (server.root / "big").mkdir()
    toml = f"format = 'engine'\noptions = {{ command = '{command}' }}\n"
    (server.root / "big" / "wharf.toml").write_text(toml)
    answer = load(server)
    assert (answer.status_code, said in answer.json()["error"]) == (500, True)


def test_no_two_engines_have_one_port() -> None:
    """Whether its engine listens there yet or not, a port is one worker's until that ends."""
    port, claim = _free_port()
    assert _claimed(port) is None
    claim.close()
    again = _claimed(port)
    assert again is not None
    again.close()


def test_of_a_command_only_the_four_words_are_filled_in() -> None:
    """Other braces are the engine's, as in its JSON."""
    words = {"port": "8000", "name": "big"}
    assert _filled('--x={"a":{port}}', words) == '--x={"a":8000}'
    assert _filled("{name}-{other}", words) == "big-{other}"


@pytest.mark.parametrize(
    ("device", "visible", "wanted"),
    [
        ("cpu", "4,5", "4,5"),
        ("cuda", "4,5", "4,5"),
        ("cuda:1", "4,5", "5"),
        ("cuda:1", "GPU-aa,GPU-bb", "GPU-bb"),
        ("cuda:1", None, "1"),
        ("cpu", None, None),
    ],
)
def test_an_engine_sees_the_gpu_that_its_model_has_room_on(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, wanted: str | None
) -> None:
    """Counted among those that the server sees; without one, all of them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert _environ(device).get("CUDA_VISIBLE_DEVICES") == wanted
