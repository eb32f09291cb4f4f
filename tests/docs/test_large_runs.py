"""What docs/large-models.md shows is what happens: its model is saved, its command is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.clone import is_same, make_clone, run
from tests.docs.pages import LARGE, files, sessions
from tests.server import RunningServer


@pytest.mark.torch
def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    """A group of two ranks answers; a language model in two does, token by token."""
    pytest.importorskip("accelerate")
    clone = make_clone(tmp_path / "clone")
    for name, text in files(LARGE).items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(text)
    (session,) = sessions(LARGE)
    with RunningServer(clone / "models", tmp_path / "server.log", session.variables) as server:
        for command, printed in session.steps:
            found = run(command, clone, server.url)
            assert is_same(found, printed), f"$ {command}\nprinted: {printed}\nfound: {found}\n{server.log()[-4000:]}"
