"""Urls and names lead into the model repository, or nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequestError, ModelNotFoundError, ServingError
from serving.repository.artifact import available, locate, resolve
from tests.unit.repository import packs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    for folder in ("abc/model", "team/a", "team/b/1", "plain"):
        (made / folder).mkdir(parents=True)
    for file in ("abc/model/model.onnx", "team/a/model.pt", "team/b/1/model.onnx", "one.tar.gz", "two.zip", "net.onnx"):
        (made / file).write_bytes(packs.onnx())
    (made / ".hidden").mkdir()
    (made / "notes.md").touch()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    (made / "way-out").symlink_to(tmp_path / "outside")
    (made / "alias").symlink_to("abc")
    return made


def test_a_path_and_a_file_url_below_the_root_resolve(root: Path) -> None:
    """As the platform gives them; percent-encoded in the url form only."""
    assert resolve(root, f"{root}/abc/model") == root / "abc" / "model"
    assert resolve(root, f"file://{root}/abc/%6dodel") == root / "abc" / "model"
    assert resolve(root, f"{root}/alias/model/") == root / "abc" / "model"


def test_a_root_that_is_a_link_is_followed_too(root: Path, tmp_path: Path) -> None:
    """/opt/ml/models may be a link to a volume."""
    (tmp_path / "link").symlink_to(root)
    assert resolve(tmp_path / "link", f"{tmp_path}/link/abc") == root / "abc"
    assert resolve(tmp_path / "link", str(root / "abc")) == root / "abc"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "abc",
        "{root}",
        "{root}/",
        "{root}/.",
        "{root}/abc/..",
        "{root}/../outside",
        "{root}/../outside/missing",
        "{root}/way-out",
        "{root}/way-out/secret",
        "{root}/way-out/missing",
        "{root}-evil/x",
        "/etc/passwd",
        "/",
        "s3://bucket/{root}",
        "http://localhost{root}/abc",
        "file://otherhost{root}/abc",
        "file://[{root}/abc",
        "file://{root}/%2e%2e/outside",
        "file://{root}/abc%00",
        "file://{root}/abc?x=1",
        "file:abc",
        "{root}/a\0b",
        "{root}/\udcff",
        "{root}/" + "n" * 256,
        "{root}/" + "n/" * 3000,
    ],
)
def test_whatever_is_no_url_below_the_root_is_400(root: Path, url: str) -> None:
    """Refused before anything is read, whether it exists or not."""
    with pytest.raises(BadRequestError) as caught:
        resolve(root, url.replace("{root}", str(root)))
    assert caught.value.message.isprintable()


def test_what_is_missing_inside_is_404(root: Path) -> None:
    """Also a link to nothing, a circle of links, and a path through a file."""
    (root / "dangling").symlink_to("nothing")
    (root / "circle").symlink_to("circle")
    for name in ("nope", "abc/nope", "dangling", "circle", "net.onnx/inner"):
        with pytest.raises(ModelNotFoundError):
            resolve(root, f"{root}/{name}")


@given(st.text(max_size=40))
def test_no_name_and_no_url_is_anything_but_an_answer(text: str) -> None:
    """Any text ends in a path inside or in an error of ours."""
    root = Path(__file__).parent
    for find in (resolve, locate):
        for given_text in (text, f"{root}/{text}", f"file://{text}"):
            try:
                found = find(root, given_text)
            except ServingError as error:
                assert error.status in (400, 404)  # never anything else
            else:
                assert (found[1] if isinstance(found, tuple) else found).is_relative_to(root)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("abc", "abc"),
        ("abc/", "abc"),
        ("./abc//model", "abc/model"),
        ("team/b", "team/b"),
        ("one.tar.gz", "one.tar.gz"),
        ("one", "one.tar.gz"),
        ("two", "two.zip"),
        ("net", "net.onnx"),
        ("net.onnx", "net.onnx"),
        ("abc.tar.gz", "abc"),
        ("team/a.zip", "team/a"),
        ("alias", "alias"),
    ],
)
def test_a_model_is_found_with_and_without_its_suffix(root: Path, name: str, canonical: str) -> None:
    """One model has one canonical name: the path as it lies on disk."""
    found, path = locate(root, name)
    assert (found, path) == (canonical, (root / canonical).resolve())


@pytest.mark.parametrize(
    "name", ["", " ", ".", "/", "..", "../outside", "abc/../../outside", "/etc", "a\0", "n" * 1025, "n" * 256]
)
def test_a_name_that_is_no_relative_path_is_400(root: Path, name: str) -> None:
    """The same rules as for a url."""
    with pytest.raises(BadRequestError):
        locate(root, name)


def test_a_name_that_leads_outside_by_a_link_is_400(root: Path) -> None:
    """Containment is decided after links are followed."""
    with pytest.raises(BadRequestError, match="outside"):
        locate(root, "way-out/secret")


def test_a_missing_name_is_404_with_the_near_ones(root: Path) -> None:
    """A slip of the finger is corrected."""
    with pytest.raises(ModelNotFoundError, match=r"did you mean net\.onnx"):
        locate(root, "nett.onnx")
    with pytest.raises(ModelNotFoundError, match="GET /repository"):
        locate(root, "qqqqqqqqq")


def test_available_lists_models_and_folders_of_models(root: Path) -> None:
    """Sorted; no hidden entries, no other files, nothing outside; what is no model is listed to be refused by name."""
    assert available(root) == ["abc", "alias", "net.onnx", "one.tar.gz", "plain", "team/a", "team/b", "two.zip"]


def test_every_available_name_is_its_own_canonical_name(root: Path) -> None:
    """`locate` and `available` speak of the same things."""
    assert [locate(root, name)[0] for name in available(root)] == available(root)


def test_a_repository_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """The platform may create it later."""
    assert available(tmp_path / "nope") == []
    with pytest.raises(ModelNotFoundError):
        locate(tmp_path / "nope", "m")
