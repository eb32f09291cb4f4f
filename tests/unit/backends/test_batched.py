"""Models in this process behind a batcher: joined inputs, split outputs, shared runs."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.backends.base import InProcessModel
from serving.backends.batched import BatchedModel, BatchingBackend
from serving.backends.fake import FakeBackend, FakeModel
from serving.backends.onnx import OnnxBackend
from serving.cores import CoreBudget
from serving.errors import (
    BadRequestError,
    InsufficientMemoryError,
    ModelFailedError,
    UnavailableError,
)
from serving.repository.layouts import ModelSpec
from serving.repository.scheduling import Scheduling
from serving.tensors import Array, Signature, Tensors, TensorSpec
from serving.workers.handler import Reply, Request
from serving.workers.plan import Alone
from tests.models import make_fake
from tests.waiting import until

DYNAMIC = Scheduling(max_batch_size=8, is_dynamic=True)
LONG = 1e9


class Picky(InProcessModel):
    """y = 2 x. Fails for negative numbers, has no memory for more than six rows, and holds runs of the number 77."""

    signature = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1, -1)),))
    threads = 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.runs: list[list[int]] = []
        self.inputs: list[Array] = []
        self.is_closed = False

    def run(self, inputs: Tensors) -> Tensors:
        x = inputs["x"]
        self.runs.append([int(number) for number in x[:, 0]])
        self.inputs.append(x)
        if 77 in x:
            assert self.gate.wait(10)
        if len(x) > 6:
            raise InsufficientMemoryError("no memory for so many")
        if (x < 0).any():
            raise ModelFailedError("negative")
        return {"y": x * 2}

    def close(self) -> None:
        self.is_closed = True


class Place:
    """A picky model behind a batcher, whose one instance is busy until `go`."""

    def __init__(self, pool: ThreadPoolExecutor, scheduling: Scheduling = DYNAMIC) -> None:
        self.inner = Picky()
        self.model = BatchedModel("m", self.inner, scheduling, CoreBudget(1))
        self._pool = pool
        self.first = pool.submit(ask, self.model, [77])
        until(lambda: self.inner.runs)

    def put(self, *numbers: float, width: int = 1, **about: Any) -> Future[Reply]:
        """A request of a row a number waits for its turn."""
        before = self.model.waiting
        future = self._pool.submit(ask, self.model, numbers, width, about)
        until(lambda: self.model.waiting > before or future.done())
        return future

    def go(self) -> None:
        """The instance is free."""
        self.inner.gate.set()
        self.first.result(10)


def ask(model: BatchedModel, numbers: Any, width: int = 1, about: dict[str, Any] | None = None) -> Reply:
    """One request of a row a number, `width` columns each."""
    x = np.repeat(np.array(numbers, np.float32)[:, np.newaxis], width, axis=1)
    return model.invoke(Request(tensors={"x": x}, about=about or {}), LONG)


def answer(reply: Reply) -> list[float]:
    """The first column of y."""
    assert reply.tensors is not None
    numbers: list[float] = reply.tensors["y"][:, 0].tolist()
    return numbers


def test_each_request_gets_its_own_rows_of_the_shared_run() -> None:
    """In whatever number."""
    with ThreadPoolExecutor(4) as pool:
        place = Place(pool)
        futures = [place.put(1), place.put(2, 3), place.put(4)]
        place.go()

        assert [answer(each.result(10)) for each in futures] == [[2], [4, 6], [8]]
    assert place.inner.runs == [[77], [1, 2, 3, 4]]


def test_each_request_knows_where_its_time_went() -> None:
    """The rows are the run's; one of its requests counts it."""
    with ThreadPoolExecutor(3) as pool:
        place = Place(pool)
        futures = [place.put(1), place.put(2, 3)]
        place.go()
        spent = [each.result(10).spent for each in futures]

    assert [(each.rows, each.is_first) for each in spent] == [(3, True), (3, False)]
    assert all(each.queue_ns > 0 and each.input_ns > 0 and each.infer_ns > 0 for each in spent)
    assert spent[0].infer_ns == spent[1].infer_ns
    assert (place.first.result().spent.rows, place.first.result().spent.is_first) == (1, True)


def test_a_request_alone_is_not_copied() -> None:
    """Its arrays reach the model as they are, and the model's go back."""
    model = BatchedModel("m", inner := Picky(), DYNAMIC, CoreBudget(1))
    x = np.ones((2, 1), np.float32)
    model.invoke(Request(tensors={"x": x}), LONG)

    assert inner.inputs[0] is x


def test_requests_of_other_shapes_run_by_themselves() -> None:
    """Nothing is padded."""
    with ThreadPoolExecutor(3) as pool:
        place = Place(pool)
        futures = [place.put(1, width=1), place.put(2, width=3)]
        place.go()

        assert [each.result(10).tensors["y"].shape for each in futures] == [(1, 1), (1, 3)]  # type: ignore[index]
    assert place.inner.runs == [[77], [1], [2]]


def test_requests_of_other_types_run_by_themselves() -> None:
    """A join would change what the model sees."""
    with ThreadPoolExecutor(2) as pool:
        place = Place(pool)
        x = np.array([[5]], np.float64)
        other = pool.submit(place.model.invoke, Request(tensors={"x": x}), LONG)
        until(lambda: place.model.waiting == 1)
        third = threading.Thread(target=ask, args=(place.model, [6]))
        third.start()
        until(lambda: place.model.waiting == 2)
        place.go()
        third.join(10)

        assert other.result(10).tensors["y"].dtype == np.float64  # type: ignore[index]
    assert place.inner.runs == [[77], [5], [6]]


def test_one_bad_request_does_not_fail_its_neighbours() -> None:
    """Each of the failed run's requests is run again alone."""
    with ThreadPoolExecutor(4) as pool:
        place = Place(pool)
        futures = [place.put(1), place.put(-2), place.put(3)]
        place.go()

        assert answer(futures[0].result(10)) == [2]
        assert isinstance(futures[1].exception(10), ModelFailedError)
        assert answer(futures[2].result(10)) == [6]
    assert place.inner.runs == [[77], [1, -2, 3], [1], [-2], [3]]
    assert all(futures[number].result().spent.is_first for number in (0, 2))


def test_requests_that_are_too_large_only_together_are_run_alone() -> None:
    """Sharing a run must not turn an answer into a 507."""
    with ThreadPoolExecutor(3) as pool:
        place = Place(pool)
        futures = [place.put(1, 2, 3, 4), place.put(5, 6, 7)]
        place.go()

        assert [answer(each.result(10)) for each in futures] == [[2, 4, 6, 8], [10, 12, 14]]


def test_more_rows_than_the_model_takes_are_a_bad_request() -> None:
    """In the words that Triton has for it."""
    model = BatchedModel("m", Picky(), DYNAMIC, CoreBudget(1))
    with pytest.raises(BadRequestError, match="inference request batch-size must be <= 8 for 'm'"):
        ask(model, range(9))


def test_inputs_of_unequal_rows_are_a_bad_request() -> None:
    """Named with what was found."""
    model = BatchedModel("m", Picky(), DYNAMIC, CoreBudget(1))
    tensors = {"a": np.ones((2, 1)), "b": np.ones((3, 1)), "c": np.ones(())}
    with pytest.raises(BadRequestError, match=r"\{'a': 2, 'b': 3, 'c': None\} rows: send as many rows in each"):
        model.invoke(Request(tensors=tensors), LONG)


def test_an_output_without_the_batch_is_the_models_failure(tmp_path: Path) -> None:
    """It could not be split; the message says what to set."""

    class Summing(Picky):
        def run(self, inputs: Tensors) -> Tensors:
            return {"y": inputs["x"].sum(axis=0)}

    model = BatchedModel("m", Summing(), DYNAMIC, CoreBudget(1))
    with pytest.raises(ModelFailedError, match=r"answered 2 rows with output 'y' of shape \[1\].*max_batch_size: 0"):
        ask(model, [1, 2])


def test_without_a_batch_dimension_shapes_are_literal() -> None:
    """max_batch_size 0: any number of rows, one request a run, any output."""
    with ThreadPoolExecutor(3) as pool:
        place = Place(pool, Scheduling(instances=2))
        futures = [place.put(1, 2), place.put(3)]
        place.go()

        assert [answer(each.result(10)) for each in futures] == [[2, 4], [6]]
    assert place.inner.runs == [[77], [1, 2], [3]]


def test_a_request_says_its_priority() -> None:
    """By what the Open Inference protocol calls it; what is no number is none."""
    with ThreadPoolExecutor(4) as pool:
        place = Place(pool, Scheduling(1, True, priority_levels=2, default_priority=2))
        futures = [place.put(1, priority="x"), place.put(2, priority=1)]
        place.go()
        for each in futures:
            each.result(10)

    assert place.inner.runs == [[77], [2], [1]]


def test_the_run_waits_for_its_cores_within_the_deadline() -> None:
    """503 when the other models leave it none."""
    cores = CoreBudget(1)
    model = BatchedModel("m", Picky(), DYNAMIC, cores)
    with cores.lease(1, 1), pytest.raises(UnavailableError, match="No CPU core was free"):
        model.invoke(Request(tensors={"x": np.ones((1, 1), np.float32)}), time.monotonic() + 0.02)


def test_those_who_come_while_the_run_waits_for_its_cores_join_it() -> None:
    """The batch is closed when it begins, not when it was first possible."""
    cores, inner = CoreBudget(1), Picky()
    model = BatchedModel("m", inner, DYNAMIC, cores)
    with ThreadPoolExecutor(3) as pool:
        with cores.lease(1, 1):
            futures = [pool.submit(ask, model, [1])]
            until(lambda: cores.waiting)
            futures += [pool.submit(ask, model, [2]), pool.submit(ask, model, [3])]
            until(lambda: model.waiting == 2)
        assert sorted(answer(each.result(10))[0] for each in futures) == [2, 4, 6]

    assert [len(run) for run in inner.runs] == [3]


def test_no_more_runs_leave_the_line_than_there_are_cores_for() -> None:
    """Of four instances on one core one runs; the others' requests would only wait where nobody can join them."""
    with ThreadPoolExecutor(4) as pool:
        place = Place(pool, replace(DYNAMIC, instances=4))
        futures = [place.put(1), place.put(2)]
        place.go()

        assert [answer(each.result(10)) for each in futures] == [[2], [4]]
    assert place.inner.runs == [[77], [1, 2]]


def test_the_rest_is_the_models() -> None:
    """Signature, threads, memory, the host and the end."""
    model = BatchedModel("m", inner := Picky(), DYNAMIC, CoreBudget(1))
    model.attach(Alone())

    assert (model.signature, model.threads, model.held_bytes()) == (inner.signature, 1, None)
    assert (model.is_outside, model.takes_bodies) == (True, False)
    assert model.run({"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[2]]
    model.close()
    assert inner.is_closed
    with pytest.raises(UnavailableError):
        ask(model, [1])


@pytest.mark.parametrize(
    ("scheduling", "is_wrapped"),
    [
        (None, False),
        (Scheduling(), False),
        (Scheduling(max_batch_size=8), False),
        (DYNAMIC, True),
        (Scheduling(instances=2), True),
        (Scheduling(priority_levels=2, default_priority=1), True),
    ],
)
def test_only_a_model_with_a_scheduler_is_wrapped(
    tmp_path: Path, scheduling: Scheduling | None, is_wrapped: bool
) -> None:
    """All others are called as they always were."""
    file = make_fake(tmp_path, "m") / "fake.json"
    spec = ModelSpec("m", "fake", file, file.stat().st_size, scheduling=scheduling)

    loaded = BatchingBackend(FakeBackend(), CoreBudget(1)).load(spec)
    assert isinstance(loaded, BatchedModel if is_wrapped else FakeModel)


def test_the_backend_is_otherwise_the_one_it_wraps(tmp_path: Path) -> None:
    """In this process, with its name, its runtime and its predictions."""
    file = make_fake(tmp_path, "m", bytes=1000) / "fake.json"
    spec = ModelSpec("m", "fake", file, file.stat().st_size)
    inner = FakeBackend()
    backend = BatchingBackend(inner, CoreBudget(1))

    assert (backend.name, backend.is_outside, backend.outside_bytes(), backend.prepare()) == ("fake", False, 0, False)
    assert backend.footprint(spec) == inner.footprint(spec)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """A small real ONNX network with a free batch and text beside it: y = relu(x W + b), t = t."""
    onnx = pytest.importorskip("onnx")
    make, floats, texts, random = onnx.helper, 1, 8, np.random.default_rng(7)
    nodes = [
        make.make_node("MatMul", ["x", "W"], ["h"]),
        make.make_node("Add", ["h", "b"], ["s"]),
        make.make_node("Relu", ["s"], ["y"]),
        make.make_node("Identity", ["t"], ["u"]),
    ]
    weights = {"W": random.normal(size=(16, 5)), "b": random.normal(size=5)}
    graph = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("x", floats, [None, 16]), make.make_tensor_value_info("t", texts, [None, 1])],
        [make.make_tensor_value_info("y", floats, [None, 5]), make.make_tensor_value_info("u", texts, [None, 1])],
        [onnx.numpy_helper.from_array(each.astype(np.float32), name) for name, each in weights.items()],
    )
    file = tmp_path_factory.mktemp("network") / "model.onnx"
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return ModelSpec("m", "onnx", file, file.stat().st_size)


schedulings = st.builds(
    Scheduling,
    max_batch_size=st.just(16),
    is_dynamic=st.just(True),
    preferred=st.sampled_from([(), (4,), (4, 8), (16,)]),
    max_queue_delay_us=st.sampled_from([0, 300]),
    preserve_ordering=st.booleans(),
    instances=st.integers(1, 2),
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scheduling=schedulings,
    counts=st.lists(st.lists(st.integers(1, 16), min_size=1, max_size=6), min_size=8, max_size=8),
    seed=st.integers(0, 1 << 30),
)
def test_batched_answers_are_the_unbatched_ones(
    network: ModelSpec, scheduling: Scheduling, counts: list[list[int]], seed: int
) -> None:
    """A real model, 8 threads, any numbers of rows: each answer to 1e-5, and the text to the letter."""
    plain = OnnxBackend("cpu", 2).load(network)
    batched = BatchingBackend(OnnxBackend("cpu", 2), CoreBudget(2)).load(replace(network, scheduling=scheduling))
    assert isinstance(batched, BatchedModel)

    def client(number: int) -> float:
        random, worst = np.random.default_rng((seed, number)), 0.0
        for rows in counts[number]:
            texts = np.array([[f"{number} {row}"] for row in range(rows)], object)
            tensors = {"x": random.normal(size=(rows, 16)).astype(np.float32), "t": texts}
            got = batched.invoke(Request(tensors=tensors), math.inf).tensors
            assert got is not None
            want = plain.run(tensors)
            assert (got["u"] == want["u"]).all()
            assert got["y"].shape == want["y"].shape
            worst = max(worst, float(np.abs(got["y"] - want["y"]).max()))
        return worst

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(client, range(8))) < 1e-5
