"""What docs/bring-your-model.md shows is what happens: its files are saved, its commands are run, its models served."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.repository.layouts import describe
from tests.docs.clone import is_same, make_clone, run
from tests.docs.pages import BRING, blocks, files, sessions
from tests.server import RunningServer

(SESSION,) = sessions(BRING)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the small models, and the files of the page saved as it says."""
    folder = make_clone(tmp_path_factory.mktemp("clone"))
    for name, text in files(BRING).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def server(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The server of the page's one session."""
    with RunningServer(clone / "models", tmp_path_factory.mktemp("server") / "server.log", SESSION.variables) as server:
        yield server


def test_the_commands_print_what_the_page_says(clone: Path, server: RunningServer) -> None:
    """Every command, in order, against one server."""
    for command, printed in SESSION.steps:
        found = run(command, clone, server.url)
        assert is_same(found, printed), f"$ {command}\nprinted: {printed}\nfound: {found}\n{server.log()[-4000:]}"


def test_no_command_of_the_page_is_left_out() -> None:
    """A block of another kind would be copied and never have been tried."""
    assert not blocks(BRING, "sh") and not blocks(BRING, "bash")
    assert len(SESSION.steps) >= 10


def test_every_model_of_the_page_is_asked_something() -> None:
    """A file that no command uses proves nothing."""
    saved = {name.split("/")[1] for name in files(BRING)}
    asked = {found for command, _ in SESSION.steps for found in re.findall(r"/models/(\w+)/invoke", command)}

    assert saved <= asked


@pytest.mark.parametrize("name", sorted({name.split("/")[1] for name in files(BRING)}))
def test_each_model_of_the_page_is_served_by_the_dialect_of_its_section(name: str, clone: Path) -> None:
    """The section's heading is what the table at the top links to."""
    served = describe(name, clone / "models" / name).handler
    before = BRING.read_text().partition(f"# models/{name}/")[0]
    section = re.findall(r"^## (.+)$", before, re.MULTILINE)[-1]
    anchor = re.sub(r"[^\w\- ]", "", section.lower()).replace(" ", "-")

    assert served is not None
    assert f"[{served.dialect}](#{anchor})" in BRING.read_text()
