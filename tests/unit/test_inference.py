"""The engine of Triton's language: infer, stream, describe, load, unload, count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from serving.codecs.v2 import Question, Wanted
from serving.cores import CoreBudget
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    InvalidArtifactError,
    ModelFailedError,
    ModelNotFoundError,
    ServingError,
    UnavailableError,
    UnsupportedError,
)
from serving.inference import Answer, Inference
from serving.repository.ensemble_steps import Step
from serving.residents import Resident
from serving.statistics import Spent
from serving.workers import answer_frames
from serving.workers.handler import Reply, Request
from tests.unit.house import House
from tests.unit.repository.packs import zip_of


class Engine:
    """An engine over a house."""

    def __init__(self, folder: Path, *, is_platform: bool = False, budget_bytes: int = 1 << 30) -> None:
        self.house = House(folder, is_platform=is_platform, budget_bytes=budget_bytes)
        manager, self.catalog = self.house.manager, self.house.catalog
        self.inference = Inference(manager, self.catalog, CoreBudget(2), self.house.statistics, 5)

    def outside(self, answer: Callable[[Request], Reply], name: str = "far") -> str:
        """Make a model that a function answers."""
        self.house.make(name)
        self.house.backend.outside[name] = answer
        return name

    def infer(self, name: str = "m", version: str = "", **changes: Any) -> Answer:
        """One row of two numbers."""
        return self.inference.infer(name, version, ask(**changes))

    def refusal(self, kind: type[ServingError], *of: str, **changes: Any) -> str:
        """The sentence that a request is refused with."""
        with pytest.raises(kind) as caught:
            self.infer(*of, **changes)
        return caught.value.message


def ask(**changes: Any) -> Question:
    """A question of one input."""
    return Question(**({"inputs": {"x": ("FP32", np.array([[1, 2]], np.float32))}} | changes))


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """With a model `m` that answers four times its input."""
    engine = Engine(tmp_path)
    engine.house.make("m")
    return engine


def counts(engine: Engine, name: str = "m") -> dict[str, int]:
    """Successes and failures."""
    (found,) = engine.catalog.stats(name)
    return {what: found["inference_stats"][what]["count"] for what in ("success", "fail")}


# ---- infer -----------------------------------------------------------------------------------------------------------


def test_a_request_loads_its_model_and_is_counted(engine: Engine) -> None:
    """Standalone mode."""
    answer = engine.infer(id="7", outputs=[Wanted("y")])

    assert answer.head == {"id": "7", "model_name": "m", "model_version": "1"}
    assert answer.outputs["y"].tolist() == [[4, 8]]
    assert counts(engine) == {"success": 1, "fail": 0}


def test_answers_parameters_are_part_of_its_head() -> None:
    """Between version and outputs."""
    assert list(Answer("m", "1", "", {}, {"a": 1}).head) == ["model_name", "model_version", "parameters"]


def test_raw_bytes_become_the_one_input(engine: Engine) -> None:
    """In the shape of the signature."""
    engine.house.make("fixed", dims=[2])

    raw = np.array([1, 2], "<f4").tobytes()
    assert engine.inference.infer("fixed", "", Question(raw=raw)).outputs["y"].tolist() == [[4, 8]]


def test_unknown_models_and_versions_are_told_in_tritons_words(engine: Engine) -> None:
    """404 all of them."""
    assert engine.refusal(ModelNotFoundError, "nope") == "Request for unknown model: 'nope' is not found"
    assert engine.refusal(ModelNotFoundError, "m", "9") == "Request for unknown model: 'm' version 9 is not found"
    assert engine.infer("m", "1").version == engine.infer("m", "-1").version == "1"


def test_a_version_that_is_no_number_is_told_in_tritons_words(engine: Engine) -> None:
    """400: it is no version at all."""
    assert engine.refusal(BadRequestError, "m", "x") == (
        "failed to get model version from specified version string 'x' (details: stol), version should be an integral "
        "value > 0"
    )


def test_a_model_that_cannot_be_is_none_for_who_asks_it(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The log says why; an ensemble that wants it as a member hears it."""
    engine.house.make("bad", nonsense=1)

    assert engine.refusal(ModelNotFoundError, "bad") == "Request for unknown model: 'bad' is not found"
    assert "event=not_served model=bad" in caplog.text
    assert "wants an object with keys" in caplog.text
    with pytest.raises(InvalidArtifactError):
        engine.inference.prepare("bad")


def test_a_decoupled_model_is_refused_in_the_words_of_the_wire(engine: Engine) -> None:
    """Where those are given: generate takes one answer of such a model, infer none."""
    with engine.house.manager.ready("m") as resident:
        assert resident.artifact is not None
        spec = replace(resident.artifact.spec, triton={"model_transaction_policy": {"decoupled": True}})
        resident.artifact = replace(resident.artifact, spec=spec)

    with pytest.raises(UnsupportedError, match="^not here$"):
        engine.inference.infer("m", "", ask(), once="not here")
    assert engine.infer().outputs["y"].tolist() == [[4, 8]]


def test_a_request_that_does_not_fit_is_counted_as_rejected(engine: Engine) -> None:
    """It never ran, and is no `fail`; that of a stream neither."""
    assert "expected 1 inputs but got 0 inputs" in engine.refusal(BadRequestError, inputs={})
    with pytest.raises(BadRequestError):
        list(engine.inference.stream("m", "", ask(inputs={})))
    assert counts(engine) == {"success": 0, "fail": 0}
    assert engine.inference.statistics.of("m", "1").rejected == 2


def test_the_first_dimension_is_no_batch_where_a_model_has_none(engine: Engine) -> None:
    """One row, one batch size, however long the tensors are, and whatever runs it."""
    engine.outside(lambda _: Reply(tensors={"y": np.zeros((1, 1))}))
    three = {"x": ("FP32", np.ones((3, 2), np.float32))}
    for name in ("m", "far"):
        engine.infer(name, inputs=three)
        list(engine.inference.stream(name, "", ask(inputs=three)))
        (found,) = engine.catalog.stats(name)
        assert (found["inference_count"], found["execution_count"]) == (2, 2)
        assert [each["batch_size"] for each in found["batch_stats"]] == [1]


@pytest.mark.parametrize("kind", [UnavailableError, BadRequestError])
@pytest.mark.parametrize("has_run", [True, False])
def test_a_request_that_the_model_had_is_its_failure(engine: Engine, kind: type[ServingError], has_run: bool) -> None:
    """A worker that died on it, or refused it; one that found no room was rejected."""

    def answer(_: Request) -> Reply:
        error = kind("no")
        error.has_run = has_run
        raise error

    engine.outside(answer)
    assert engine.refusal(kind, "far") == "no"
    with pytest.raises(kind):
        list(engine.inference.stream("far", "", ask()))
    assert counts(engine, "far") == {"success": 0, "fail": 2 if has_run else 0}
    assert engine.inference.statistics.of("far", "1").rejected == (0 if has_run else 2)


def test_a_resident_without_files_is_not_ready(engine: Engine) -> None:
    """503, in Triton's words."""
    with pytest.raises(UnavailableError, match="'m' is not at ready state"):
        engine.inference.infer_held(Resident("m", "/m"), ask())


def test_a_held_model_answers_without_being_looked_up(engine: Engine) -> None:
    """As SageMaker's routes do it."""
    with engine.house.manager.ready("m") as resident:
        assert engine.inference.infer_held(resident, ask()).outputs["y"].tolist() == [[4, 8]]


# ---- people's code ---------------------------------------------------------------------------------------------------


def test_a_worker_gets_what_the_client_said_besides(engine: Engine) -> None:
    """Only what is there."""
    heard: list[dict[str, Any]] = []

    def answer(request: Request) -> Reply:
        heard.append(request.about)
        return Reply(tensors={"y": np.zeros((1, 1))}, spent=Spent(1, 2, 3, 4))

    said = {"own": 1, "sequence_id": 5, "sequence_start": True, "sequence_end": True, "timeout": 9}
    engine.infer(engine.outside(answer), id="7", parameters=said, outputs=[Wanted("y")], priority=2, timeout_us=9)
    engine.infer("far")

    assert heard == [
        {
            **{"id": "7", "parameters": {"own": 1}, "outputs": ["y"], "priority": 2},
            **{"timeout_us": 9, "sequence_id": 5, "flags": 3},
        },
        {},
    ]
    assert engine.catalog.stats("far")[0]["inference_stats"]["compute_infer"] == {"count": 2, "ns": 6}


@pytest.mark.parametrize(
    ("reply", "kind", "said"),
    [
        (Reply(b'{"error": "ValueError: \\"no\\""}', 424), ModelFailedError, 'ValueError: "no"'),
        (Reply(b'{"error": "a"}', 400), BadRequestError, "a"),
        (Reply(b"gone", 404), ModelNotFoundError, "gone"),
        (Reply(b"3", 501), UnsupportedError, "3"),
        (Reply(b"busy", 503), UnavailableError, "busy"),
        (Reply(b"{}", 507), InsufficientMemoryError, "{}"),
        (Reply(b"", 418), ModelFailedError, "The model answered nothing."),
    ],
)
def test_a_workers_error_keeps_its_kind_and_its_words(
    engine: Engine, reply: Reply, kind: type[ServingError], said: str
) -> None:
    """Whole or streamed."""
    engine.outside(lambda _: reply)

    assert engine.refusal(kind, "far") == said
    with pytest.raises(kind):
        list(engine.inference.stream("far", "", ask()))


def test_a_decoupled_model_is_refused_where_one_answer_is_wanted(engine: Engine) -> None:
    """Whether its stream can be closed or not."""
    chunks = [lines([]), iter([b""])]
    engine.outside(lambda _: Reply(chunks=chunks.pop()))

    assert "decoupled transaction policy" in engine.refusal(UnsupportedError, "far")
    assert "decoupled transaction policy" in engine.refusal(UnsupportedError, "far")


def test_a_model_that_reads_bodies_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With where to go instead."""
    engine.outside(lambda _: Reply())
    with engine.house.manager.ready("far") as resident:
        monkeypatch.setattr(type(resident.model), "takes_bodies", True)

    assert "call /models/far/invoke" in engine.refusal(UnsupportedError, "far")


def lines(closed: list[str], *last: bytes) -> Iterator[bytes]:
    """Two frames of a stream, and more."""
    try:
        for value in (1, 2):
            yield answer_frames.write({"y": np.array([value])}, {})
        yield from last
    finally:
        closed.append("closed")


def test_a_stream_yields_each_answer_and_is_counted_at_its_end(engine: Engine) -> None:
    """One success, however many answers."""
    engine.outside(lambda _: Reply(chunks=lines([])))
    found = [each.outputs["y"].tolist() for each in engine.inference.stream("far", "", ask())]

    assert found == [[1], [2]]
    assert counts(engine, "far") == {"success": 1, "fail": 0}


def test_a_stream_that_is_left_closes_the_models_own(engine: Engine) -> None:
    """The model hears that nobody listens while it is still held, and ran: it is counted."""
    held: list[int] = []

    def chunks() -> Iterator[bytes]:
        try:
            yield from lines([])
        finally:
            held.append(engine.house.in_flight("far"))

    engine.outside(lambda _: Reply(chunks=chunks()))
    answers = engine.inference.stream("far", "", ask())
    next(answers)
    answers.close()  # type: ignore[attr-defined]  # a generator

    assert (held, engine.house.in_flight("far")) == ([1], 0)
    assert counts(engine, "far") == {"success": 1, "fail": 0}


def test_a_stream_that_is_left_after_an_error_has_failed(engine: Engine) -> None:
    """As if it had been read to its end."""
    engine.outside(lambda _: Reply(chunks=iter([answer_frames.write_error("no"), b""])))
    answers = engine.inference.stream("far", "", ask())
    assert next(answers).error is not None
    answers.close()  # type: ignore[attr-defined]  # a generator

    assert counts(engine, "far") == {"success": 0, "fail": 1}


def test_streams_that_share_a_run_are_one_execution(engine: Engine) -> None:
    """Where the time went is what the model's own line says; one that streams on takes its time until its end."""
    spent = [Spent(5, infer_ns=7, rows=3), Spent(6, infer_ns=7, rows=3, is_first=False), Spent(4, infer_ns=1)]
    replies = [
        *(Reply(answer_frames.write({"y": np.array([1])}, {}), spent=each) for each in spent[:2]),
        Reply(chunks=lines([]), spent=spent[2]),
    ]
    engine.outside(lambda _: replies.pop(0))
    for _ in range(3):
        list(engine.inference.stream("far", "", ask()))

    (found,) = engine.catalog.stats("far")
    assert (found["inference_count"], found["execution_count"]) == (3, 2)
    assert found["inference_stats"]["queue"] == {"count": 3, "ns": 15}
    assert [(each["batch_size"], each["compute_infer"]["count"]) for each in found["batch_stats"]] == [(1, 1), (3, 1)]
    assert found["batch_stats"][1]["compute_infer"]["ns"] == 7
    assert found["batch_stats"][0]["compute_infer"]["ns"] > 1000


def test_a_stream_goes_on_after_an_error(engine: Engine) -> None:
    """It is an answer among others, and the request is no success."""
    engine.outside(lambda _: Reply(chunks=lines([], answer_frames.write_error("too far"), answer_frames.write({}, {}))))
    found = list(engine.inference.stream("far", "", ask()))

    assert [each.error.text if each.error else "" for each in found] == ["", "", "too far", ""]
    assert [each.is_last for each in found] == [False] * 4
    assert counts(engine, "far") == {"success": 0, "fail": 1}


def test_an_error_in_place_of_a_frame_ends_a_stream(engine: Engine) -> None:
    """After what came before it."""
    engine.outside(lambda _: Reply(chunks=lines([], b"nonsense")))
    answers = engine.inference.stream("far", "", ask())

    assert len([next(answers), next(answers)]) == 2
    with pytest.raises(ModelFailedError, match="an answer that is none"):
        next(answers)
    assert counts(engine, "far") == {"success": 0, "fail": 1}


def test_one_answer_and_none_are_streams_too(engine: Engine) -> None:
    """In process, whole, or nothing at all."""
    engine.outside(lambda _: Reply(tensors={"y": np.array([3])}), "whole")
    engine.outside(lambda _: Reply(), "nothing")

    assert [len(list(engine.inference.stream(name, "", ask()))) for name in ("m", "whole", "nothing")] == [1, 1, 0]


# ---- members ---------------------------------------------------------------------------------------------------------


def test_a_member_hears_what_the_client_said_of_a_sequence(engine: Engine) -> None:
    """Which one, and whether it begins or ends; nothing of it where nothing was said."""
    heard: list[dict[str, Any]] = []

    def answer(request: Request) -> Reply:
        heard.append(request.about)
        return Reply(tensors={"y": np.zeros((1, 1))})

    step = Step(engine.outside(answer), "", {"x": "x"}, {"y": "y"})
    for about in ({"sequence_id": 5, "flags": 2, "parameters": {"own": 1}}, {"flags": 1}, {}):
        engine.inference.call(step, {"x": np.ones((1, 2), np.float32)}, about, monotonic() + 5)

    assert heard == [
        {"sequence_id": 5, "flags": 2, "parameters": {"own": 1}, "outputs": ["y"]},
        {"flags": 1, "outputs": ["y"]},
        {"outputs": ["y"]},
    ]


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_a_model_says_what_it_is(engine: Engine) -> None:
    """Metadata, configuration, signature."""
    assert engine.inference.metadata("m")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
    assert engine.inference.config("m")["backend"] == "fake"
    assert engine.inference.signature("m").inputs[0].name == "x"


def test_an_unloaded_model_is_not_loaded_by_a_mere_request(engine: Engine) -> None:
    """Until somebody loads it."""
    engine.catalog.load("m")
    engine.catalog.unload("m")

    assert engine.refusal(ModelNotFoundError, "m") == "Request for unknown model: 'm' has no available versions"
    engine.catalog.load("m")
    assert engine.infer().version == "1"


def test_an_archive_is_traced_by_its_short_name_too(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Settings made for either name are those of both."""
    (engine.house.root / "packed.tar.gz").write_bytes(zip_of({"fake.json": b"{}"}))
    on = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
    for set_as, asked_as in (("packed", "packed.tar.gz"), ("packed.tar.gz", "packed")):
        engine.inference.traces.update(on, set_as)
        assert engine.inference.traces.get(asked_as)["trace_level"] == ["TIMESTAMPS"]
        with caplog.at_level("INFO"):
            engine.infer(asked_as)
        assert "event=trace model=packed.tar.gz" in caplog.text
        caplog.clear()
        engine.inference.traces.update({"trace_level": None, "trace_rate": None}, asked_as)
        engine.infer(set_as)
        assert "event=trace" not in caplog.text
