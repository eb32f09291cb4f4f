"""The pages of the project as tests read them: files, code blocks, links, console sessions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BRING = ROOT / "docs/bring-your-model.md"
LARGE = ROOT / "docs/large-models.md"
FOLDERS = (".", "docs", "docs/adr", "scripts", "model_repo_templates")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SAVED = re.compile(r"# (models/\S+)\n")


@dataclass
class Session:
    """A server of a page: the variables of its `make serve` line, then commands with the answers printed below."""

    variables: dict[str, str]
    steps: list[tuple[str, str]] = field(default_factory=list)


def blocks(page: Path, language: str) -> list[str]:
    """Return the contents of all code blocks in `language`."""
    return [text for found, text in _FENCE.findall(page.read_text()) if found == language]


def files(page: Path) -> dict[str, str]:
    """Return the files that a page has people save, by the path in their first line, whatever their language."""
    found = ((_SAVED.match(text), text) for _, text in _FENCE.findall(page.read_text()))
    return {path[1]: text for path, text in found if path}


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Return the targets of all links."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Return what links into a page may name after `#`, as forges make it of headings."""
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(prose(page)))
    return {heading.strip().replace(" ", "-") for heading in kept}


def sessions(page: Path) -> list[Session]:
    """Return the console sessions of a page; each `$ make serve` begins one."""
    found: list[Session] = []
    for line in "".join(blocks(page, "console")).splitlines(keepends=True):
        if line.startswith("$ make serve"):
            found.append(Session(dict(word.split("=", 1) for word in line.split()[3:])))
        elif line.startswith("$ "):
            found[-1].steps.append((line[2:].strip(), ""))
        else:
            command, answer = found[-1].steps.pop()
            found[-1].steps.append((command, answer + line))
    return found
