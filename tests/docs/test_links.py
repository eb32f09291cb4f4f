"""Links lead somewhere, and no page names a machine or where packages come from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serving.repository.wharf_toml import read_wharf_toml
from tests.docs.pages import PAGES, ROOT, anchors, blocks, links

KNOWN_HOSTS = {"127.0.0.1", "localhost", "keepachangelog.com", "semver.org", "www.apache.org"}
# The folders of whoever runs this: where the checkout lies, and their home. And the words of package indexes.
HERE = "|".join(re.escape(f"{folder}/") for folder in (ROOT.parent, Path.home()) if folder != Path("/"))
FORBIDDEN = re.compile(rf"{HERE}|/root/|index-url|pypi|pythonhosted|artifactory|/simple/", re.IGNORECASE)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_internal_links_resolve(page: Path) -> None:
    """To a file of the repository, and to a heading of it where they name one."""
    for link in links(page):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_no_page_names_a_package_index_or_a_machine_path(page: Path) -> None:
    """Where packages come from is the user's own business; /home/you is nobody's."""
    text = page.read_text()
    homes = set(re.findall(r"/home/\w+", text))

    assert not FORBIDDEN.search(text)
    assert homes <= {"/home/you"}


@each_page
def test_addresses_are_of_hosts_that_everybody_knows(page: Path) -> None:
    """No host of somebody's network."""
    hosts = {urlsplit(url).hostname for url in re.findall(r"https?://[^\s)>`\"']+", page.read_text())}

    assert hosts <= KNOWN_HOSTS


def test_headings_become_anchors_as_forges_make_them(tmp_path: Path) -> None:
    """Lower case, hyphens, no punctuation; a comment in a code block is no heading."""
    page = tmp_path / "page.md"
    page.write_text("# One `two`: three\n```sh\n# four\n```\n")

    assert anchors(page) == {"one-two-three"}


def test_every_toml_example_is_a_wharf_toml(tmp_path: Path) -> None:
    """What people copy is accepted as it is."""
    examples = [text for page in PAGES for text in blocks(page, "toml")]
    assert len(examples) >= 3
    for text in examples:
        assert tomllib.loads(text)
        (tmp_path / "wharf.toml").write_text(text)
        read_wharf_toml(tmp_path / "wharf.toml")
