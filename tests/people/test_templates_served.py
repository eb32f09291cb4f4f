"""The templates that need workers, behind a real server: what the README says of each is what happens."""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.docs.pages import ROOT, blocks
from tests.people.apps import House, in_sessions
from tests.server import RunningServer
from tests.waiting import until

TEMPLATES = ROOT / "model_repo_templates"
BUILDER = TEMPLATES / "build.py"
DIALECTS = {
    "inference_py": "sagemaker",
    "inference_py_stream": "sagemaker",
    "tensorflow_handler": "tensorflow",
    "djl_model_py": "djl",
    "djl_stream": "djl",
    "triton_python": "triton_python",
    "triton_python_decoupled": "triton_python",
    "engine": "engine",
    "iris_sklearn": "sklearn",
    "iris_xgboost": "trees",
    "iris_lightgbm": "trees",
    "tiny_bert_hf": "huggingface",
    "cifar_savedmodel": "savedmodel",
}
# More than any client waits for: who gets a first line of it gets it before the end.
ENDLESS = 10**9
STREAMS = {
    "inference_py_stream": ({"history": [1, 2], "steps": ENDLESS}, {"history": [1, 2], "steps": 1}),
    "djl_stream": (
        {"inputs": "the", "parameters": {"max_new_tokens": ENDLESS}},
        {"inputs": "the", "parameters": {"max_new_tokens": 1}},
    ),
    "triton_python_decoupled": tuple(
        {"inputs": [{"name": "UP_TO", "datatype": "INT64", "shape": [1], "data": [up_to]}]} for up_to in (ENDLESS, 3)
    ),
}
HANDLERS = [path.name for path in sorted((TEMPLATES / "handlers").iterdir())]
CSV = {"Content-Type": "text/csv"}
_DECIMAL = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")

pytest.importorskip("sklearn")


def run(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository."""
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)


def build(out: Path, *names: str) -> list[str]:
    """Run build.py as people do; return the lines that it prints."""
    command = [sys.executable, str(BUILDER), "--out", str(out), *names]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """All templates that need workers, on one server."""
    folder = tmp_path_factory.mktemp("templates")
    (folder / "models").mkdir()
    build(folder / "models", *DIALECTS)
    with RunningServer(folder / "models", folder / "server.log", {"WHARF_PRELOAD": "numpy"}) as server:
        house = House(server)
        yield house
        house.client.close()


@pytest.fixture(params=DIALECTS)
def name(request: pytest.FixtureRequest) -> str:
    """Each template whose library is here."""
    optional = runpy.run_path(str(BUILDER))["OPTIONAL"]
    for module in optional.get(request.param, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    return str(request.param)


def ask(house: House, name: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    """Invoke a model with JSON, or with bytes of the type that `headers` say."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | (headers or {})
    return house.client.post(f"/models/{name}/invoke", content=content, headers=headers)


def listed(house: House) -> dict[str, str]:
    """Return the urls of the loaded models by name."""
    return {each["modelName"]: each["modelUrl"] for each in house.client.get("/models").json()["models"]}


def readme_lines() -> dict[str, tuple[str, str]]:
    """Return the request of each template as the README has it, and the answer below it."""
    found = {}
    for step in "".join(blocks(TEMPLATES / "README.md", "console")).split("$ ")[1:]:
        command, _, answer = step.partition("\n")
        found[command.split("/")[-2]] = (command, answer)
    return found


# --- what the README says


def test_the_readme_has_a_request_for_every_template_that_needs_workers() -> None:
    """And no other one in its console block."""
    assert sorted(readme_lines()) == sorted(DIALECTS)


def test_the_line_of_the_readme_is_answered_as_it_says(house: House, name: str) -> None:
    """The very line, with this server in the place of localhost:8080; decimals to 1e-3."""
    command, printed = readme_lines()[name]
    here = command.replace("localhost:8080", house.server.url.removeprefix("http://"))
    env = dict(os.environ) | {"no_proxy": "127.0.0.1"}
    done = run(["bash", "-c", here], env)
    assert _DECIMAL.sub("#", done.stdout.strip()) == _DECIMAL.sub("#", printed.strip())
    numbers = [[float(number) for number in _DECIMAL.findall(text)] for text in (done.stdout, printed)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-6)


def test_validate_says_which_dialect_serves_it(house: House, name: str) -> None:
    """And warns of nothing: what people copy is whole."""
    done = run([sys.executable, "-m", "serving.cli", "validate", str(house.server.root / name)])
    first, *lines = done.stdout.splitlines()
    assert first.endswith(f"{name}: served in workers, by {DIALECTS[name]}")
    assert f"  dialect  {DIALECTS[name]}" in lines
    assert done.stderr == "" and "warning" not in done.stdout


# --- a life


def test_it_is_listed_with_its_process_and_gone_with_it_after_delete(house: House, name: str) -> None:
    """GET /models tells of it, its worker has a session of its own; DELETE leaves neither."""
    house.unload(name)
    assert house.load(name).status_code == 200
    assert listed(house)[name] == str(house.server.root / name)
    workers = {each.pid for each in house.workers(name)}
    assert workers
    assert house.client.delete(f"/models/{name}").status_code == 200
    assert not in_sessions(workers)
    assert name not in listed(house)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_arrives_while_it_is_made_and_ends_with_its_client(house: House, name: str) -> None:
    """Three lines of one that would take hours; then the only worker answers the next request."""
    endless, short = STREAMS[name]
    with house.client.stream("POST", f"/models/{name}/invoke", json=endless) as answer:
        assert answer.status_code == 200
        assert "content-length" not in answer.headers
        lines = [json.loads(line) for line in islice(answer.iter_lines(), 3)]
    assert len(lines) == 3
    until(lambda: ask(house, name, short).status_code == 200)
    assert len(house.workers(name)) == 1


# --- the handlers


def test_the_nearest_centroid_is_right_on_what_it_never_saw(house: House) -> None:
    """At least 9 in 10 of the rows; CSV in and out."""
    _, rows, _, labels = runpy.run_path(str(TEMPLATES / "iris.py"))["split"]()
    body = "\n".join(",".join(map(str, row)) for row in rows).encode()
    answer = ask(house, "inference_py", body, CSV | {"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv"
    expected = np.array(["setosa", "versicolor", "virginica"])[labels]
    assert (np.array(answer.text.split()) == expected).mean() >= 0.9


@pytest.mark.parametrize("name", ["inference_py", "tensorflow_handler"])
def test_a_type_that_the_handler_cannot_read_is_its_own_error(house: House, name: str) -> None:
    """424 with the sentence that the template raises."""
    answer = ask(house, name, b"5.1", {"Content-Type": "text/plain"})
    assert answer.status_code == 424
    assert "send application/json or text/csv" in answer.json()["error"]


def test_a_stream_comes_as_events_where_the_client_asks_for_them(house: House) -> None:
    """Lines of `data:`, of the type of an event stream."""
    answer = ask(house, "inference_py_stream", {"history": [1, 2], "steps": 2}, {"Accept": "text/event-stream"})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text == 'data: {"step": 1, "value": 4.25}\n\ndata: {"step": 2, "value": 6.875}\n\n'


@pytest.mark.parametrize(
    ("name", "body", "status", "said"),
    [
        ("inference_py_stream", {"history": [1], "steps": 2}, 424, "history has 1 values: send at least 2"),
        ("djl_stream", {"inputs": "zebra"}, 400, "'zebra' is no word of the corpus"),
        ("tensorflow_handler", {"instance": [1]}, 424, "either 'instances' or 'inputs' is wanted"),
    ],
)
def test_what_is_wrong_before_the_first_line_is_a_whole_answer(
    house: House, name: str, body: Any, status: int, said: str
) -> None:
    """Its status is no 200, and its error says what to send."""
    answer = ask(house, name, body)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_requests_of_one_batch_get_each_its_own_answer(house: House) -> None:
    """Sixteen clients at once, every one with another text."""
    texts = ["good " * count for count in range(8)] + ["bad " * count for count in range(8)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda text: ask(house, "djl_model_py", {"inputs": text}).json(), texts))
    scores = [np.tanh(text.count("good") / 2 - text.count("bad") / 2) for text in texts]
    assert [answer["score"] for answer in answers] == pytest.approx(scores, abs=1e-3)


def v2(**arrays: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    """Return a V2 body of float32 arrays."""
    return {
        "inputs": [
            {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in arrays.items()
        ]
    }


def test_triton_answers_open_inference_json(house: House) -> None:
    """Sum and difference, each with its name, shape and datatype."""
    first, second = np.arange(8, dtype=np.float32).reshape(2, 4), np.ones((2, 4), np.float32)
    answer = ask(house, "triton_python", v2(INPUT0=first, INPUT1=second))
    assert answer.status_code == 200
    assert answer.json()["outputs"] == [
        {"name": "OUTPUT0", "datatype": "FP32", "shape": [2, 4], "data": (first + second).ravel().tolist()},
        {"name": "OUTPUT1", "datatype": "FP32", "shape": [2, 4], "data": (first - second).ravel().tolist()},
    ]


def test_an_error_of_one_response_is_that_requests_own(house: House) -> None:
    """INVALID_ARG is 400, with the model's message."""
    rows = np.full((2, 4), 3e38, np.float32)
    answer = ask(house, "triton_python", v2(INPUT0=rows, INPUT1=rows))
    assert answer.status_code == 400
    assert "send smaller ones" in answer.json()["error"]


def npy(array: Any) -> bytes:
    """Return the bytes of a .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"5.1,3.5,1.4,0.2\n6.7,3.0,5.2,2.3\n", "text/csv"),
        (npy(ROWS), "application/x-npy"),
        (npy(ROWS.astype(np.float32)), "application/x-npy"),
        (json.dumps({"instances": ROWS.tolist()}).encode(), "application/json"),
        (json.dumps(ROWS.tolist()).encode(), "application/json"),
    ],
    ids=["csv", "npy", "npy of float32", "instances", "bare"],
)
def test_scikit_learn_takes_csv_npy_and_json(house: House, body: bytes, kind: str) -> None:
    """The same rows are the same flowers."""
    answer = ask(house, "iris_sklearn", body, {"Content-Type": kind, "Accept": "text/csv"})
    assert answer.text.split() == ["setosa", "virginica"]


# --- the builder


def test_every_folder_of_handlers_is_a_template() -> None:
    """And the set of that name is they."""
    builder = runpy.run_path(str(BUILDER))
    assert sorted(builder["HANDLERS"]) == HANDLERS
    assert set(HANDLERS) <= set(builder["TEMPLATES"])


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_is_copied_as_it_is_and_runs_on_an_old_python(tmp_path: Path, name: str) -> None:
    """Byte for byte, and 3.9 can parse it: people's environments may bring no newer one."""
    build(tmp_path, name)
    sources = [path for path in (TEMPLATES / "handlers" / name).rglob("*") if path.is_file()]
    for source in (path for path in sources if "__pycache__" not in path.parts):
        copy = tmp_path / name / source.relative_to(TEMPLATES / "handlers" / name)
        assert copy.read_bytes() == source.read_bytes()
        if source.suffix == ".py":
            ast.parse(source.read_text(), feature_version=(3, 9))


def test_a_handler_that_was_changed_is_built_anew(tmp_path: Path) -> None:
    """Its folder's files are its sources; without a change it is left alone."""
    ours = tmp_path / "templates"
    shutil.copytree(TEMPLATES, ours, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, str(ours / "build.py"), "--out", str(tmp_path / "models"), "djl_stream"]

    def line() -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    assert [" built in " in line(), line()] == [True, "djl_stream: up to date\n"]
    (ours / "handlers/djl_stream/corpus.txt").write_text("one two.\n")
    assert " built in " in line()
    assert (tmp_path / "models/djl_stream/corpus.txt").read_text() == "one two.\n"


def test_the_set_of_handlers_wants_no_torch(tmp_path: Path) -> None:
    """All of them are there at once; the weights of the centroids are the same bytes every time."""
    first, second = tmp_path / "first", tmp_path / "second"
    lines = build(first, "--set", "handlers")
    build(second, "inference_py")
    assert sorted(line.split(":")[0] for line in lines) == HANDLERS
    assert all(" built in " in line for line in lines)
    weights = "inference_py/centroids.npz"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
