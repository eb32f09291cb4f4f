"""Nothing that people use is undocumented, and nothing is documented that is not there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from serving.cli import main
from serving.http.tfs_methods import METHODS
from serving.repository.wharf_toml import _KEYS as KEYS
from serving.repository.wharf_toml import DIALECTS
from serving.settings import Settings
from tests.docs.pages import BRING, PAGES, README, ROOT
from tests.unit.http.front import Front

ALL_TEXT = {page: page.read_text() for page in PAGES}
SETTINGS = {name for each in fields(Settings) for name, _ in each.metadata["sources"]} | {"WHARF_URL"}
# Read for each model by `repository`, not by `Settings`.
MODEL_SETTINGS = {"SAGEMAKER_PROGRAM", "SAGEMAKER_SUBMIT_DIRECTORY"}
TARGETS = set(re.findall(r"^([\w/-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
FLASK_ROUTES = re.findall(r'@app\.(get|post|delete)\("([^"]+)"\)', (ROOT / "serving/http/admin.py").read_text())
HOT_ROUTES = [("get", "/ping"), ("get", "/models"), ("post", "/invocations"), ("post", "/models/{name}/invoke")]
# Flask knows some of the hot ones too.
ROUTES = sorted({*HOT_ROUTES, *FLASK_ROUTES})
V1_ROUTES = re.findall(r"`(GET|POST) (/v1[^`]*)`", README.read_text())
V2_ROUTES = re.findall(r"`(GET|POST) (/v2[^`]*)`", README.read_text())
ROOMS = sorted(path.stem for path in (ROOT / "serving").rglob("*.py") if path.stem != "__init__")
WORKERS = "".join(
    path.read_text() for path in (*ROOT.glob("serving/workers/*.py"), ROOT / "serving/backends/worker.py")
)
EVENTS = sorted(set(re.findall(r"(?:event=|_say\(\")([a-z_]+)", WORKERS)) - {"pip", "output"})
RECORDS = sorted((ROOT / "docs/adr").glob("0*.md"))


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_in_the_contract_table(method: str, path: str) -> None:
    """Flask's own and those that the app answers itself."""
    shown = path.replace("<path:name>", "{name}")

    assert f"| `{method.upper()} {shown}`" in ALL_TEXT[README]


def test_there_are_as_many_routes_in_the_table_as_in_the_code() -> None:
    """A row without a route would be a promise."""
    rows = re.findall(r"^\| `(?:GET|POST|DELETE) /(?!v[12])", ALL_TEXT[README], re.MULTILINE)

    assert len(rows) == len(ROUTES)


def test_the_routes_that_the_app_answers_itself_are_known_here() -> None:
    """A new hot route has to be added to the list above."""
    paths = set(re.findall(r'path == "(/\w+)"', (ROOT / "serving/http/app.py").read_text()))

    assert paths == {"/ping", "/invocations", "/models"}


@pytest.mark.parametrize(("method", "path"), V2_ROUTES)
def test_every_v2_route_is_in_the_table_and_is_there(method: str, path: str, tmp_path: Path) -> None:
    """Asked with the other method it says 405, which a path that is not there does not."""
    front = Front(tmp_path)
    front.house.manager.load("quick", str(front.house.root / "quick"))
    shown = path.replace("{name}", "quick")

    assert front.ask("DELETE", shown).status == 405
    # 400, 500: an empty body is no request. 501: shared memory is off.
    assert front.ask(method, shown).status in (200, 400, 500, 501)


def test_the_v2_table_has_every_last_word_of_the_room() -> None:
    """A route that is added to the code is added to the table."""
    code = (ROOT / "serving/http/v2.py").read_text()
    words = set(re.findall(r'"([a-z_]+)"', " ".join(re.findall(r"parts\S* (?:not )?(?:in|==) .*", code))))

    assert {"infer", "generate_stream", "ready", "stats", "unload", "index"} <= words
    assert words <= set(re.findall(r"[a-z_]+", " ".join(path for _, path in V2_ROUTES))) | {
        "trace",
        "setting",
        "versions",
    }


@pytest.mark.parametrize(("method", "path"), V1_ROUTES)
def test_every_v1_route_is_in_the_table_and_is_there(method: str, path: str, tmp_path: Path) -> None:
    """A path or a method that is not there is a malformed request."""
    front, shown = Front(tmp_path), path.replace("{name}", "quick")

    assert "Malformed request" in front.ask("DELETE", shown).error
    assert "Malformed request" not in front.ask(method, shown).body.decode()


def test_the_v1_table_has_every_method_and_what_a_model_is_asked() -> None:
    """All three, the status and the metadata."""
    assert {path.rpartition("{name}")[2] for _, path in V1_ROUTES} == {"", "/metadata", *(f":{m}" for m in METHODS)}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_make_target_is_in_contributing(target: str) -> None:
    """`make help` is a list; the page says when."""
    assert f"`make {target}`" in ALL_TEXT[ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_in_the_page_for_people_who_bring_models(dialect: str) -> None:
    """By the name that wharf.toml has for it."""
    assert f"`{dialect}`" in ALL_TEXT[BRING]


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_of_wharf_toml_is_in_the_page_for_people_who_bring_models(key: str) -> None:
    """In its example, or in the table below it; those of models in process have a page of their own."""
    text = ALL_TEXT[BRING] + ALL_TEXT[ROOT / "model_repo_templates/README.md"]

    assert re.search(rf"^{key} = |`{key}`", text, re.MULTILINE)


@pytest.mark.parametrize("event", EVENTS)
def test_every_log_line_about_workers_is_in_the_table(event: str) -> None:
    """Whoever finds one in the log finds out what it means."""
    assert f"`event={event}`" in ALL_TEXT[BRING]


def test_every_verb_of_the_command_is_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    """What `wharf --help` lists, each as a command that can be copied or read about."""
    with pytest.raises(SystemExit):
        main(["--help"])
    verbs = set(re.findall(r"^    (\w+) +\w", capsys.readouterr().out, re.MULTILINE))

    assert {"serve", "validate", "load"} <= verbs
    assert {verb for verb in verbs if not re.search(rf"\bwharf {verb}\b", ALL_TEXT[README])} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_named_in_the_architecture(room: str) -> None:
    """A page that leaves a room out is not true any more."""
    assert f"`{room}`" in ALL_TEXT[ROOT / "docs/architecture.md"].replace("`http/", "`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_only_settings_and_targets_that_exist(page: Path) -> None:
    """A name from a former version sends people looking."""
    text = ALL_TEXT[page]
    named = set(re.findall(r"\b(?:WHARF|SAGEMAKER)_[A-Z_]*[A-Z]\b", text)) - {"SAGEMAKER_REGION"}
    targets = set(re.findall(r"`make ([a-z][\w/-]*)", text)) | set(
        re.findall(r"^(?:\$ )?make ([\w/-]+)", text, re.MULTILINE)
    )

    assert named <= SETTINGS | MODEL_SETTINGS
    assert targets <= TARGETS


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_every_decision_is_in_the_index_and_says_why_and_at_what_cost(record: Path) -> None:
    """Three headings make a record."""
    text = ALL_TEXT[record]

    assert f"]({record.name})" in ALL_TEXT[ROOT / "docs/adr/README.md"]
    assert all(f"\n## {heading}\n" in text for heading in ("Decision", "Why", "Cost"))


def test_the_two_commands_stand_near_the_top() -> None:
    """Nobody should have to scroll for them."""
    top = ALL_TEXT[README].splitlines()[:25]

    assert any(line.startswith("make serve") for line in top)
    assert any(line.startswith("make test") for line in top)


def test_the_commands_of_the_numbers_exist() -> None:
    """Each figure names a file that makes it."""
    files = re.findall(r"`\.venv/bin/python (?:-m pytest -s )?(\S+\.py)`", ALL_TEXT[README])

    assert len(files) >= 6
    assert all((ROOT / file).is_file() for file in files)


def test_the_licence_is_the_whole_apache_licence() -> None:
    """Unchanged, as it has to be."""
    text = (ROOT / "LICENSE").read_text()

    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text) == 11_358
