"""What can be built is said in Makefile, bake file and docker/: here they are held to each other. No Docker."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import hcl2
import pytest

from serving import memory

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", text, flags=re.MULTILINE))


def unquoted(value: Any) -> Any:
    """Some versions of the parser keep the quotes of a string."""
    if isinstance(value, dict):
        return {unquoted(key): unquoted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [unquoted(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


@pytest.fixture(scope="module")
def bake() -> dict[str, Any]:
    """The targets of the bake file by name."""
    with (ROOT / "docker/docker-bake.hcl").open() as file:
        tree = unquoted(hcl2.load(file))
    return {name: body for target in tree["target"] for name, body in target.items()}


def test_every_flavour_is_in_the_makefile_and_in_the_bake_file(bake: dict[str, Any]) -> None:
    """A Dockerfile that one of the two does not know would rot."""
    flavours = {path.parent.name for path in DOCKERFILES}
    makefile = (ROOT / "Makefile").read_text()
    for verb in ("build", "test-image"):
        assert set(re.findall(rf"^{verb}/(\w+):", makefile, flags=re.MULTILINE)) == flavours
    assert {name for name in bake if not name.startswith("_")} == flavours


def test_the_bake_file_builds_the_dockerfiles_with_arguments_that_they_have(bake: dict[str, Any]) -> None:
    """An argument that a Dockerfile does not declare is silently ignored by Docker."""
    for path in DOCKERFILES:
        target = bake[path.parent.name]
        declared = set(re.findall(r"^ARG (\w+)", path.read_text(), flags=re.MULTILINE))
        assert ROOT / target["dockerfile"] == path
        assert set(target["args"]) | set(bake["_common"]["args"]) <= declared


def test_the_flavour_for_arm_is_a_manifest_of_both_platforms(bake: dict[str, Any]) -> None:
    """And what make builds by itself is the first of them; the tests build the other one, too."""
    default = re.search(r"^build/graviton: PLATFORM \?= (\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert default is not None
    assert bake["graviton"]["platforms"] == [default[1], "linux/amd64"]
    locks = {
        f"linux/{path.stem.removeprefix('tensorflow-')}" for path in (ROOT / "requirements").glob("tensorflow-*.txt")
    }
    assert locks == set(bake["graviton"]["platforms"])


def test_makefile_and_bake_file_have_the_same_defaults() -> None:
    """The two ways to build give one image."""
    in_bake = dict(re.findall(r'variable "(\w+)" { default = "(.*)" }', (ROOT / "docker/docker-bake.hcl").read_text()))
    in_make = dict(re.findall(r"^(\w+) \?= (\S+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert (in_bake["EXTRAS"], in_bake["IMAGE"]) == (in_make["EXTRAS"], in_make["IMAGE"])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_a_dockerfile_is_short_and_builds_with_the_oldest_buildkit(path: Path) -> None:
    """BuildKit 20.10 cannot fetch a syntax image here and has no heredocs; the base is pinned and replaceable."""
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert "syntax=" not in text
    assert "<<" not in text
    assert re.search(r"^ARG BASE_IMAGE=\S+:\S*\d\S*$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_tunes_the_allocator_as_the_server_does(path: Path) -> None:
    """In plain bytes: glibc reads `16M` as 16, and then maps and unmaps every single buffer."""
    found = {name: int(value) for name, value in re.findall(r"MALLOC_(\w+?)_?=(\S+)", path.read_text())}
    wanted = {"MMAP_THRESHOLD": memory.MMAP_THRESHOLD_BYTES, "TRIM_THRESHOLD": memory.TRIM_THRESHOLD_BYTES}
    assert found == wanted | {"ARENA_MAX": memory.ARENA_MAX}


def test_the_locks_hold_what_the_project_pins() -> None:
    """A pin changed in pyproject.toml alone would not reach the image: run `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {"serve": project["dependencies"] + extras["triton"]}
    wanted["samples"] = wanted["dev"] = wanted["serve"] + extras["samples"]
    for name, pins in wanted.items():
        assert {pin.lower() for pin in pins} <= {f"{package}=={version}" for package, version in locked(name).items()}


def test_the_locks_agree_with_each_other() -> None:
    """What is tested (dev) is what is served."""
    dev = locked("dev")
    for name in ("serve", "samples", "torch-deps", "djl"):
        assert locked(name).items() <= dev.items()
    for name in ("tensorflow-arm64", "tensorflow-amd64"):
        assert locked("serve").items() <= locked(name).items()


def test_every_locked_package_has_a_hash_and_no_lock_names_an_index() -> None:
    """Hashes make the index's word unnecessary; which index is the user's business. torch is in no lock."""
    for path in (ROOT / "requirements").glob("*.txt"):
        entries = re.split(r"^(?=[a-z0-9])", path.read_text(), flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in entry for entry in entries), path
        assert not re.search(
            r"--(extra-)?index-url|--find-links|--trusted-host|^torch==", path.read_text(), re.MULTILINE
        )


def test_ci_calls_make_targets_that_exist() -> None:
    """CI runs nothing that a person could not."""
    steps = re.findall(r"^step (\S+)$", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    assert steps == ["check", "test", "test-image/cpu", "test-image/triton", "test-image/graviton", "test-image/djl"]
    assert all(re.search(rf"^{step}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE) for step in steps)


def test_every_script_is_executable_short_and_in_the_table() -> None:
    """scripts/README.md is the list of them."""
    table = (ROOT / "scripts/README.md").read_text()
    for path in (ROOT / "scripts").iterdir():
        if path.suffix != ".md" and path.is_file():
            assert len(path.read_text().splitlines()) < 80, path
            assert os.access(path, os.X_OK), path
            assert f"| `{path.name}` |" in table
