"""The command: parse, call, print, and a sentence for everything that can go wrong."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from serving.cli import main
from tests.models import make_fake
from tests.unit.http.front import Front
from tests.unit.repository.packs import onnx, tar_gz


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        return


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A front with a token."""
    yield Front(tmp_path, token="s3cret")


@pytest.fixture
def url(front: Front, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The front behind a real HTTP server; WHARF_URL and WHARF_ADMIN_TOKEN lead to it."""
    server = make_server("127.0.0.1", 0, front.app, server_class=_Server, handler_class=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("WHARF_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WHARF_ADMIN_TOKEN", "s3cret")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


Captured = pytest.CaptureFixture[str]


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """Every verb is named; half a second is far too long already."""
    code = "import sys\nfrom serving import cli\ntry: cli.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20)
    took_s = time.monotonic() - started
    modules = {name.split(".")[0] for name in ended.stdout.splitlines()[-1].split()}

    assert all(verb in ended.stdout for verb in ("serve", "validate", "models", "load", "unload", "invoke"))
    assert modules & {"numpy", "flask", "granian", "gunicorn", "torch", "onnxruntime", "orjson", "werkzeug"} == set()
    assert took_s < 0.5


@pytest.mark.parametrize("argv", [[], ["fly"], ["invoke"], ["validate"]])
def test_a_wrong_call_shows_the_usage(argv: list[str], capsys: Captured) -> None:
    """Status 2, as is usual."""
    with pytest.raises(SystemExit) as caught:
        main(argv)

    assert caught.value.code == 2
    assert "usage: wharf" in capsys.readouterr().err


def test_models_are_loaded_listed_invoked_and_unloaded(
    url: str, front: Front, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The life of a model by the verbs, with the token."""
    folder = f"{front.house.root}/quick"
    assert main(["load", "twin", folder]) == 0
    assert main(["models"]) == 0
    assert main(["invoke", "twin", "--data", '{"instances": [[2]]}']) == 0
    assert main(["unload", "twin"]) == 0

    assert capsysbinary.readouterr().out.decode() == (
        f"Model 'twin' loaded.\ntwin\t{folder}\n" + '{"predictions":[[8.0]]}' + "Model 'twin' unloaded.\n"
    )


def test_a_list_of_many_pages_is_one_list(url: str, front: Front, capsys: Captured) -> None:
    """A hundred fit a page."""
    for number in range(101):
        front.house.manager.load(f"m{number:03d}", f"{front.house.root}/quick")
    main(["models"])

    assert len(capsys.readouterr().out.splitlines()) == 101


@pytest.mark.parametrize("name", ["a b", "Zürich", "sub/dir", "100%"])
def test_names_are_sent_percent_encoded(url: str, front: Front, name: str, capsys: Captured) -> None:
    """Any legal name can be typed."""
    front.house.load(name)

    assert main(["invoke", name, "--data", '{"instances": [[2]]}']) == 0
    assert main(["unload", name]) == 0


def test_a_body_comes_from_text_a_file_or_standard_input(
    url: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any type the server speaks."""
    (tmp_path / "body.csv").write_bytes(b"1,2\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"instances": [[3]]}')))
    csv = ["--content-type", "text/csv", "--accept", "text/csv"]

    assert main(["invoke", "quick", "--data", f"@{tmp_path}/body.csv", *csv]) == 0
    assert main(["invoke", "quick"]) == 0
    assert capsysbinary.readouterr().out == b'4.0,8.0\n{"predictions":[[12.0]]}'


def test_the_repository_is_listed_and_what_is_loaded_is_marked(tmp_path: Path, capsys: Captured) -> None:
    """`models --available` asks the repository route."""
    answers = {"/repository": {"models": [{"modelName": "a", "loaded": True}, {"modelName": "b", "loaded": False}]}}
    with _Canned(answers) as address:
        assert main(["models", "--available", "--url", address]) == 0

    assert capsys.readouterr().out == "a\tloaded\nb\n"


class _Canned:
    """A server that knows a few answers by path."""

    def __init__(self, answers: Mapping[str, object]) -> None:
        self._answers = answers
        self.bodies: list[bytes] = []
        self._server = make_server("127.0.0.1", 0, self._answer, handler_class=_Quiet)

    def _answer(self, environ: dict[str, object], start_response: object) -> list[bytes]:
        assert callable(start_response)
        self.bodies.append(environ["wsgi.input"].read(int(str(environ.get("CONTENT_LENGTH") or 0))))  # type: ignore[attr-defined]
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(self._answers[str(environ["PATH_INFO"])]).encode()]

    def __enter__(self) -> str:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_load_without_an_artifact_takes_the_repositorys(capsys: Captured) -> None:
    """Its url is asked for first; a name that is not there is a sentence."""
    canned = _Canned({"/repository": {"models": [{"modelName": "a", "modelUrl": "/m/a"}]}, "/models": {"status": "ok"}})
    with canned as address:
        assert main(["load", "a", "--url", address]) == 0
        with pytest.raises(SystemExit) as caught:
            main(["load", "b", "--url", address])

    assert json.loads(canned.bodies[1]) == {"model_name": "a", "url": "/m/a"}
    assert caught.value.code == 1
    assert "No model 'b' in the repository" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "sentence"),
    [(["unload", "nowhere"], 404, "'nowhere' is not loaded"), (["load", "x", "/etc"], 400, "/etc")],
)
def test_an_error_of_the_server_is_its_status_and_its_sentence(
    url: str, argv: list[str], status: int, sentence: str, capsys: Captured
) -> None:
    """Exit status 1, no traceback."""
    assert main(argv) == 1

    complaint = capsys.readouterr().err
    assert complaint.startswith(f"wharf: {status}: ")
    assert sentence in complaint


def test_a_wrong_token_is_told(url: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """401 and what is wanted."""
    monkeypatch.delenv("WHARF_ADMIN_TOKEN")

    assert main(["models"]) == 1
    assert "401" in capsys.readouterr().err


def test_without_a_server_the_way_to_one_is_shown(capsys: Captured) -> None:
    """Nobody listens there."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert main(["models", "--url", f"http://127.0.0.1:{held.getsockname()[1]}"]) == 1

    assert "start one with `wharf serve` or set WHARF_URL" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi!"])
def test_what_is_no_wharf_is_told_without_a_traceback(answer: bytes, capsys: Captured) -> None:
    """Another program's port."""

    def once(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=once, args=(listener,))
        thread.start()
        assert main(["models", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}"]) == 1
        thread.join()
    assert "gave no answer that can be read" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["localhost:8080", "file:///etc/passwd", "", "x"])
def test_a_url_that_is_none_is_told(url: str, capsys: Captured) -> None:
    """With an example."""
    with pytest.raises(SystemExit) as caught:
        main(["models", "--url", url])

    assert caught.value.code == 1
    assert "http://127.0.0.1:8080" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_told(capsys: Captured) -> None:
    """Before anybody is asked."""
    assert main(["invoke", "a", "--data", "@/nothing/here"]) == 1
    assert "/nothing/here cannot be read (No such file or directory)" in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """As shells have it."""

    class Interrupted:
        @property
        def buffer(self) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["invoke", "a"]) == 130


@pytest.mark.parametrize("kind", ["folder", "archive", "file"])
def test_validate_says_what_a_path_would_be_served_as(tmp_path: Path, kind: str, capsys: Captured) -> None:
    """Format, file, inputs and outputs, and what decided."""
    path = tmp_path / {"folder": "m", "archive": "m.tar.gz", "file": "m.onnx"}[kind]
    files = {"model.onnx": onnx(), "wharf.toml": b'[[inputs]]\nname = "x"\ndtype = "FP32"\ndims = [-1, 4]\n'}
    if kind == "folder":
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)
    else:
        path.write_bytes(tar_gz(files) if kind == "archive" else onnx())

    assert main(["validate", str(path)]) == 0
    said = capsys.readouterr().out
    assert "served as onnx" in said
    assert ("x FP32 [-1, 4]" in said) == (kind != "file")
    assert "decided by" in said


@pytest.mark.parametrize("is_packed", [False, True])
def test_validate_says_who_handles_a_model(
    tmp_path: Path, is_packed: bool, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dialect, script, paths, requirements, and what was set in vain; the environment counts."""
    monkeypatch.setenv("SAGEMAKER_SUBMIT_DIRECTORY", "/elsewhere")
    files = {"code/inference.py": b"def model_fn(x): ...", "code/requirements.txt": b"x", "lib/y.py": b"",
             "wharf.toml": b'environ = { A = "secret" }\n[options]\nb = "c"'}  # fmt: skip
    path = tmp_path / ("m.tar.gz" if is_packed else "m")
    if is_packed:
        path.write_bytes(tar_gz(files))
    for name, data in {} if is_packed else files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)

    assert main(["validate", str(path)]) == 0
    said = capsys.readouterr().out
    lines = dict(line.strip().split(maxsplit=1) for line in said.splitlines()[1:])
    assert "served in workers, by sagemaker" in said
    assert (lines["script"], lines["requires"]) == ("code/inference.py", "code/requirements.txt")
    assert (lines["paths"], lines["environ"], lines["options"]) == ("code, lib, .", "A", "b")
    assert lines["warning"].startswith("SAGEMAKER_SUBMIT_DIRECTORY is '/elsewhere'")


@pytest.mark.parametrize("way", [".", "link", "../m"])
def test_validate_follows_where_a_path_leads(
    tmp_path: Path, way: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder one stands in, or a link out of here."""
    folder = make_fake(tmp_path, "m")
    (folder / "link").symlink_to(make_fake(tmp_path, "elsewhere"))
    monkeypatch.chdir(folder)

    assert main(["validate", way]) == 0
    assert "served as fake" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "sentence"), [("nothing", "There is nothing at"), ("empty", "holds no model")])
def test_validate_says_precisely_why_not(tmp_path: Path, name: str, sentence: str, capsys: Captured) -> None:
    """Exit status 1."""
    (tmp_path / "empty").mkdir()

    assert main(["validate", str(tmp_path / name)]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "env", "sentence"),
    [
        (["--port", "x"], {}, "WHARF_PORT has value 'x' and wants a port"),
        (["--memory-budget", "lots"], {}, "WHARF_MEMORY_BUDGET has value 'lots'"),
        ([], {"WHARF_HTTP_SERVER": "apache"}, "wants granian or gunicorn"),
        ([], {"WHARF_ADMIN_TOKEN": " "}, "WHARF_ADMIN_TOKEN"),
        (["--host", "nowhere.invalid"], {}, "cannot be bound"),
        ([], {"WHARF_GRPC_PORT": "9", "SAGEMAKER_SAFE_PORT_RANGE": "20-30"}, "choose one inside"),
    ],
)
def test_a_bad_setting_is_one_sentence_and_status_1(
    argv: list[str], env: dict[str, str], sentence: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag is the variable of its name; what was misspelt is told as well."""
    for name, value in {"WHARF_MODEL_ROT": "/x", **env}.items():
        monkeypatch.setenv(name, value)

    assert main(["serve", *argv]) == 1
    complaint = capsys.readouterr().err
    assert sentence in complaint
    assert "did you mean WHARF_MODEL_ROOT?" in complaint
    assert "Traceback" not in complaint


def test_validate_knows_what_is_handed_to_tritonserver(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same settings as the server; one that cannot be read is said."""
    (tmp_path / "config.pbtxt").write_text('backend: "python"')
    monkeypatch.setenv("WHARF_TRITON_BACKENDS", "fil, python")
    assert main(["validate", str(tmp_path)]) == 0
    assert "served as triton" in capsys.readouterr().out
    monkeypatch.setenv("WHARF_PORT", "many")
    assert main(["validate", str(tmp_path)]) == 1
    assert "WHARF_PORT" in capsys.readouterr().err


def test_env_prints_what_is_set_and_what_is_used(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON; the libraries of this environment really run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    assert main(["env", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert document["cores"] >= 1
    assert {"name": "OMP_NUM_THREADS", "value": "1000", "reason": "set by the user", "origin": "user"} in document[
        "variables"
    ]
    assert {each["name"] for each in document["libraries"]} >= {"onnxruntime"}
    assert "OMP_NUM_THREADS is 1000" in document["warnings"][0]


def test_env_complains_of_a_setting_that_cannot_be_read(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the server would at its start."""
    monkeypatch.setenv("WHARF_FAST_MATH", "perhaps")

    assert main(["env"]) == 1
    assert "Setting WHARF_FAST_MATH has value 'perhaps'" in capsys.readouterr().err
