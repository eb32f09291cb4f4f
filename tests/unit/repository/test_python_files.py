"""A script's names are read from its text: nothing of it runs, and no text takes long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.repository.python_files import Script, look


def seen(folder: Path, text: str | bytes) -> Script:
    file = folder / "script.py"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return look(file)


@pytest.mark.parametrize(
    "text",
    [
        "def handle(inputs):\n    pass",
        "async def handle(inputs): ...",
        "async  def\thandle (inputs): ...",
        "class handle:\n    pass",
        "handle = service.handle",
        "handle: Handler = service.handle",
        "from service import handle",
        "from service import run as handle",
        "from service import (\n    a,  # the first\n    run as handle,\n)",
        "from service import a, \\\n    handle",
        "import os\r\n\r\ndef handle(inputs):\r\n    pass\r\n",
        '"""Docs."""\n@mark\ndef handle(inputs): ...',
        '"""It\'s "quoted" \\""" here."""\ndef handle(inputs): ...',
        "def handle(inputs):\n    this is no Python\n",
    ],
)
def test_what_a_script_defines_is_seen(tmp_path: Path, text: str) -> None:
    """However it comes to the name at its top level."""
    assert seen(tmp_path, text).defines("handle")
    assert seen(tmp_path, text).defines("x", "handle")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "class Service:\n    def handle(self, inputs): ...",
        "# def handle(inputs):",
        '"""\ndef handle(inputs):\n"""',
        "'''\ndef handle(inputs):\n'''",
        'x = """never ends\ndef handle(inputs):\n',
        "handle(inputs)",
        "handle == 3",
        "def handler(data, context): ...",
        "    handle = 3",
    ],
)
def test_what_it_does_not_define_is_not(tmp_path: Path, text: str) -> None:
    """A method, a comment, a text, a call."""
    assert not seen(tmp_path, text).defines("handle")


def test_modules_and_decorators_are_seen(tmp_path: Path) -> None:
    """Imports wherever they stand, by the first part of their names."""
    text = """
    try:
        from djl_python.inputs import Input
    except ImportError:
        import torch.nn
    """
    script = seen(tmp_path, text + "\n@prediction_handler\ndef run(): ...\n@djl.init_handler\ndef go(): ...")
    assert script.modules == {"djl_python", "torch"}
    assert script.decorators == {"prediction_handler", "init_handler"}


@pytest.mark.parametrize(
    "text",
    ["from service import *", "if FAST:\n    def handle(inputs): ...", "try:\n\n    import x\n    def f(): ...\n"],
)
def test_a_script_may_hide_names(tmp_path: Path, text: str) -> None:
    """A star import and what stands below a condition."""
    script = seen(tmp_path, text)
    assert script.may_hide
    assert "*" not in script.names


@pytest.mark.parametrize("text", ["", "x = 1", "class A:\n    def f(self): ...", "if x:\n    y()\n\ndef f(): ..."])
def test_most_scripts_hide_nothing(tmp_path: Path, text: str) -> None:
    """So that a missing function is known to be missing."""
    assert not seen(tmp_path, text).may_hide


@pytest.mark.parametrize(
    "part",
    ["from a import (\n", '"""\\"""', "'''\\'", "if x:\n    \n", " " * 999, "(", "-", "@a.", "a", "\\\n", "\r\n"],
)
def test_no_text_takes_long(tmp_path: Path, part: str) -> None:
    """A MiB of what makes parsers slow, deep or large is read within a second, and more is not read."""
    text = part * ((3 << 20) // len(part))
    started = time.monotonic()
    seen(tmp_path, text)
    assert time.monotonic() - started < 1


@given(st.one_of(st.binary(max_size=200), st.text(alphabet="def class\n\t\"'#\\=:@(*),x", max_size=200)))
def test_any_bytes_are_a_script(tmp_path_factory: pytest.TempPathFactory, data: bytes | str) -> None:
    """Never a traceback."""
    assert isinstance(seen(tmp_path_factory.mktemp("m"), data), Script)
