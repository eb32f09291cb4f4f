"""What the README shows is what happens: its console sessions are run against servers of the small sample models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.clone import is_same, make_clone, run
from tests.docs.pages import README, Session, sessions
from tests.server import RunningServer


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the small models."""
    return make_clone(tmp_path_factory.mktemp("clone"))


@pytest.mark.parametrize("session", sessions(README), ids=["first steps", "eviction", "triton"])
def test_the_console_sessions_print_what_the_readme_says(session: Session, clone: Path, tmp_path: Path) -> None:
    """Every command, in order, against one server a session, with the variables of its `make serve` line."""
    env = {name: value for name, value in session.variables.items() if name != "PORT"}
    with RunningServer(clone / "models", tmp_path / "server.log", env) as server:
        for command, printed in session.steps:
            found = run(command, clone, server.url)
            assert is_same(found, printed), f"$ {command}\nprinted: {printed}\nfound: {found}"


def test_the_eviction_that_the_readme_explains_is_of_iris(clone: Path, tmp_path: Path) -> None:
    """Iris goes, and only iris: the figures of the budget still fit the models."""
    session = sessions(README)[1]
    env = {"WHARF_MEMORY_BUDGET": session.variables["WHARF_MEMORY_BUDGET"]}
    with RunningServer(clone / "models", tmp_path / "server.log", env) as server:
        for command, _ in session.steps:
            run(command, clone, server.url)
        assert re.findall(r"event=evicted model=(\S+)", server.log()) == ["iris_onnx"]


@pytest.mark.parametrize(
    ("found", "same"),
    [("[0.98028]", True), ("[0.99]", False), ("[0.98028, 1]", False), ("{0.98028}", False)],
)
def test_only_the_last_digits_of_decimals_may_differ(found: str, same: bool) -> None:
    """A comparison that lets more pass would prove nothing."""
    assert is_same(found, "[0.98028725]") is same
