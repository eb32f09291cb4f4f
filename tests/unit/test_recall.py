"""What is remembered of models that are not loaded, and what is forgotten with which unload."""

from __future__ import annotations

import pytest

from serving.lifecycle import Event
from serving.recall import Recall
from serving.residents import Resident, Residents


@pytest.fixture
def residents() -> Residents:
    """Nobody yet."""
    return Residents()


@pytest.fixture
def recall(residents: Residents) -> Recall:
    """Of a model `a` that was loaded from /a."""
    recall = Recall(residents)
    recall.urls["a"] = "/a"
    return recall


def ready(residents: Residents, name: str = "a", url: str = "/a") -> Resident:
    """Bring a model in."""
    residents.by_name[name] = Resident(name, url)
    residents.move(residents.by_name[name], Event.LOADED)
    return residents.by_name[name]


def test_a_model_is_found_by_the_name_that_it_was_asked_for_by(recall: Recall, residents: Residents) -> None:
    """And by that of the repository."""
    iris = ready(residents, "iris.zip", "/iris.zip")
    recall.aliases["iris"] = "iris.zip"

    assert recall.named("iris") is recall.ready("iris.zip") is iris
    residents.move(iris, Event.UNLOAD)
    assert (recall.named("iris"), recall.ready("iris")) == (iris, None)


def test_what_leaves_is_forgotten_but_not_what_is_to_follow_it(recall: Recall, residents: Residents) -> None:
    """A load of a loaded model says first where the next one is."""
    assert recall.is_wanted("/a")
    recall.expect("a", "/b")
    recall.leaves("a", ready(residents), stays_away=False)
    assert (recall.knows("a"), recall.is_wanted("/a"), recall.is_wanted("/b")) == (True, False, True)
    recall.leaves("a", None, stays_away=False)
    assert not recall.knows("a")
    recall.expect("a", "/c")
    recall.expect("a", None)

    assert recall.urls == {}


def test_nobody_who_is_ready_is_barred(recall: Recall, residents: Residents) -> None:
    """Until it leaves for good; a load takes that back."""
    resident = ready(residents)
    recall.bar("a")
    assert not recall.is_barred("a")
    recall.leaves("a", resident, stays_away=True)
    assert recall.is_barred("a")
    recall.unbar("a", "nobody")
    assert not recall.is_barred("a")


def test_what_was_evicted_or_is_just_leaving_is_told_and_what_loads_is_not(
    recall: Recall, residents: Residents
) -> None:
    """A load may end the process, and is not to be tried again by the next one."""
    assert recall.evicted() == {"a": "/a"}
    residents.by_name["a"] = Resident("a", "/a")
    assert recall.evicted() == {}
    residents.move(ready(residents), Event.UNLOAD)
    assert recall.evicted() == {"a": "/a"}
    recall.expect("a", "/b")
    assert recall.evicted() == {}
