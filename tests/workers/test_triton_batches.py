"""Models of Triton's Python backend behind the dynamic batcher: real workers, whose `execute` gets lists."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.grouped import GroupedModel, GroupingBackend, _completed
from serving.backends.worker import WorkerBackend, WorkerModel, WorkerSettings
from serving.errors import BadRequestError, ModelFailedError, UnavailableError
from serving.repository.layouts import describe
from serving.repository.scheduling import Scheduling
from serving.workers.environments import Environments
from serving.workers.handler import Reply, Request
from serving.workers.instance import WorkerLostError
from tests.waiting import until
from tests.workers.processes import soon

pytest.importorskip("tritonclient")

MODEL = """
import json, os, threading
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.folder = args["model_repository"]

    def execute(self, requests):
        words = [json.loads(each.parameters() or "{}").get("do") for each in requests]
        for word in words:
            if word and word.startswith("wait"):
                self.wait(word)
        if "raise" in words:
            raise ValueError("told to")
        if "die" in words:
            os._exit(3)
        return [self.answer(request, word, len(requests)) for request, word in zip(requests, words)]

    def wait(self, gate):
        gate = os.path.join(self.folder, gate)
        open(gate + ".reached", "w").close()
        open(gate).close()  # a pipe: until the test opens its other end

    def answer(self, request, word, count):
        if word == "fail":
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("not this one"))
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        tensors = [pb_utils.Tensor("y", x), pb_utils.Tensor("count", np.full((len(x), 1), count, np.int32))]
        return pb_utils.InferenceResponse(tensors)
"""
"""Answers each request with its input and with how many requests its call of `execute` had."""

DECOUPLED = """
    def execute(self, requests):
        if any("wait" in each.parameters() for each in requests):
            self.wait("wait")
        for request in requests:
            sender = request.get_response_sender()
            for number in range(int(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()[0, 0])):
                sender.send(self.answer(request, "", len(requests)))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

CONFIG = """
backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_INT32 dims: -1 }
output [{ name: "y" data_type: TYPE_INT32 dims: -1 }, { name: "count" data_type: TYPE_INT32 dims: 1 }]
"""
BATCHING = CONFIG + "dynamic_batching { }"
SETTINGS = WorkerSettings(cores=2, preload=("numpy",), max_workers=2, request_timeout_s=30, queue_size=20)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GroupingBackend]:
    """One backend, its zygote started, for all tests."""
    environments = Environments(tmp_path_factory.mktemp("environments"), may_install=False, timeout_s=60)
    workers = WorkerBackend(SETTINGS, environments)
    made = GroupingBackend(workers)
    made.prepare()
    yield made
    workers.close()


class Place:
    """A loaded model, whose workers are busy with requests that wait at a gate until `go`."""

    def __init__(self, model: GroupedModel | WorkerModel, folder: Path, threads: ThreadPoolExecutor) -> None:
        self.model = model
        self._folder = folder
        self._threads = threads

    def ask(self, *numbers: int, do: str = "", width: int = 1, wait_s: float = 20, **about: Any) -> Reply:
        """A request of a row a number, `width` columns each."""
        x = np.repeat(np.array(numbers, np.int32)[:, np.newaxis], width, axis=1)
        said = {**about, "parameters": {"do": do} if do else {}}
        return self.model.invoke(Request(tensors={"x": x}, about=said), soon(wait_s))

    def hold(self, gate: str = "wait") -> Future[Reply]:
        """Keep one worker busy, as it is when this returns."""
        future = self._threads.submit(self.ask, 1, do=gate)
        until((self._folder / f"{gate}.reached").exists)
        return future

    def put(self, *numbers: int, **said: Any) -> Future[Reply]:
        """A request that stands in line when this returns."""
        before = self.model.waiting
        future = self._threads.submit(self.ask, *numbers, **said)
        until(lambda: self.model.waiting > before or future.done())
        return future

    def go(self, gate: str = "wait") -> None:
        """Open the gate for who stands before it, or comes there."""
        with (self._folder / gate).open("w"):
            pass


Load = Callable[..., Place]


@pytest.fixture
def load(backend: GroupingBackend, tmp_path: Path) -> Iterator[Load]:
    """Write a model and load it."""
    places: list[Place] = []
    with ThreadPoolExecutor(16) as threads:

        def loaded(config: str = BATCHING, code: str = MODEL) -> Place:
            folder = write(tmp_path / "m", config, code)
            places.append(Place(backend.load(describe("m", folder)), folder, threads))
            return places[-1]

        yield loaded
        for place in places:
            place.model.close()


def write(folder: Path, config: str, code: str = MODEL) -> Path:
    """Write a model with two gates."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.py").write_text(code)
    (folder / "config.pbtxt").write_text(config)
    for gate in ("wait", "wait2"):
        os.mkfifo(folder / gate)
    return folder


def y(reply: Reply) -> list[int]:
    assert reply.tensors is not None, reply
    numbers: list[int] = reply.tensors["y"][:, 0].tolist()
    return numbers


def count(reply: Reply) -> int:
    """How many requests its call had."""
    assert reply.tensors is not None, reply
    return int(reply.tensors["count"][0, 0])


def counts(futures: list[Future[Reply]]) -> list[int]:
    return [count(each.result(20)) for each in futures]


def _note(order: list[int], number: int, _: Future[Reply]) -> None:
    order.append(number)


def failure(future: Future[Reply]) -> str:
    """What a request hears of an exception."""
    if (error := future.exception(20)) is not None:
        assert isinstance(error, ModelFailedError)
        return str(error)
    assert future.result().status == 424
    return bytes(future.result().body).decode()


def error_of(future: Future[Reply]) -> BaseException:
    error = future.exception(20)
    assert error is not None
    return error


# ---- who shares a call -----------------------------------------------------------------------------------------------


def test_those_who_waited_are_one_call_and_each_gets_its_own_answer(load: Load) -> None:
    """As a list of requests, rows and all: nothing is joined."""
    place = load()
    first = place.hold()
    others = [place.put(1), place.put(2, 3), place.put(4)]
    place.go()

    assert [y(each.result(20)) for each in others] == [[1], [2, 3], [4]]
    assert (counts([first]), counts(others)) == ([1], [3, 3, 3])


def test_a_call_has_no_more_rows_than_the_model_takes(load: Load) -> None:
    """Rows count and not requests; oldest first, nobody is passed."""
    place = load()
    place.hold()
    others = [place.put(*range(3)), place.put(*range(5)), place.put(1), place.put(2)]
    place.go()

    assert counts(others) == [2, 2, 2, 2]


@pytest.mark.parametrize("config", [CONFIG, CONFIG.replace("max_batch_size: 8", "max_batch_size: 0")])
def test_without_a_batcher_each_call_has_one_request(load: Load, config: str) -> None:
    """With a batch dimension or without."""
    place = load(config.replace("dims: -1", "dims: [-1, -1]") if ": 0" in config else config)
    place.hold()
    others = [place.put(1), place.put(2, 3)]
    place.go()

    assert [y(each.result(20)) for each in others] == [[1], [2, 3]]
    assert counts(others) == [1, 1]


def test_a_batcher_without_a_batch_dimension_joins_nobody(load: Load) -> None:
    """max_batch_size 0: shapes are literal, the queue alone is left of it."""
    place = load(BATCHING.replace("max_batch_size: 8", "max_batch_size: 0").replace("dims: -1", "dims: [-1, -1]"))
    place.hold()
    others = [place.put(1), place.put(2)]
    place.go()

    assert counts(others) == [1, 1]


def test_only_requests_of_one_shape_share_a_call(load: Load) -> None:
    """Triton's rule, whatever the model could do with others."""
    place = load()
    place.hold()
    others = [place.put(1), place.put(2), place.put(3, width=2), place.put(4)]
    place.go()

    assert counts(others) == [2, 2, 1, 1]


def test_ragged_inputs_may_differ(load: Load) -> None:
    """Where the configuration allows it."""
    place = load(BATCHING.replace("dims: -1 }\noutput", "dims: -1 allow_ragged_batch: true }\noutput"))
    place.hold()
    others = [place.put(1), place.put(3, width=2)]
    place.go()

    assert counts(others) == [2, 2]


def test_a_preferred_size_goes_at_once(load: Load) -> None:
    """Two, long before their delay is over."""
    place = load(CONFIG + "dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 60000000 }")
    assert counts([place.put(1), place.put(2)]) == [2, 2]


def test_who_is_alone_goes_when_its_delay_is_over(load: Load) -> None:
    """With nobody to push it."""
    place = load(CONFIG + "dynamic_batching { preferred_batch_size: 2 max_queue_delay_microseconds: 200000 }")
    began = time.monotonic()
    assert count(place.ask(1)) == 1
    assert time.monotonic() - began >= 0.2


def test_each_instance_takes_a_batch_when_it_is_free(load: Load) -> None:
    """instance_group's count is the number of workers: two hold two requests, and the next free one takes the rest."""
    place = load(BATCHING + "instance_group { count: 2 }")
    first, second = place.hold(), place.hold("wait2")
    others = [place.put(1), place.put(2)]
    place.go()

    assert counts([first, *others]) == [1, 2, 2]
    assert not second.done()
    place.go("wait2")
    assert count(second.result(20)) == 1


def test_a_request_says_its_priority_and_its_timeout(load: Load) -> None:
    """The first level goes first; who has waited longer than it would is refused and never runs."""
    place = load(
        CONFIG.replace(": 8", ": 1") + "dynamic_batching { priority_levels: 2 default_priority_level: 2 "
        "default_queue_policy { allow_timeout_override: true default_timeout_microseconds: 60000000 } }"
    )
    order: list[int] = []
    place.hold()
    others = [place.put(1), place.put(2, priority=1), place.put(3, timeout_us=1000)]
    for each, number in zip(others, range(3), strict=True):
        each.add_done_callback(functools.partial(_note, order, number))
    error = error_of(others[2])
    place.go()
    for each in others[:2]:
        each.result(20)

    assert isinstance(error, UnavailableError)
    assert str(error) == "Request timeout expired"
    assert order == [2, 1, 0]


def test_a_queue_has_the_length_that_its_policy_says(load: Load) -> None:
    """And no more than the server allows any model."""
    place = load(CONFIG + "dynamic_batching { default_queue_policy { max_queue_size: 1 } }")
    place.hold()
    waiting = place.put(1)
    with pytest.raises(UnavailableError, match=r"^\[request id: <id_unknown>\] Exceeds maximum queue size$"):
        place.ask(2)
    with pytest.raises(UnavailableError, match=r"^\[request id: me\] Exceeds"):
        place.ask(2, id="me")
    place.go()
    assert count(waiting.result(20)) == 1


def test_the_servers_own_limit_of_waiting_requests_holds_too(backend: GroupingBackend, tmp_path: Path) -> None:
    """WHARF_WORKER_QUEUE, twenty here."""
    folder = write(tmp_path / "m", BATCHING)
    with ThreadPoolExecutor(22) as threads:
        place = Place(backend.load(describe("m", folder)), folder, threads)
        place.hold()
        waiting = [place.put(number) for number in range(20)]
        with pytest.raises(UnavailableError, match="has 20 requests waiting, its limit"):
            place.ask(21)
        place.go()
        assert counts(waiting) == [8] * 16 + [4] * 4
        place.model.close()


def test_of_many_requests_each_gets_its_own_answer(load: Load) -> None:
    """Two workers, eight clients, any rows and two shapes: nothing is mixed up, and no call is too large."""
    place = load(BATCHING + "instance_group { count: 2 }")

    def client(seed: int) -> list[int]:
        random, sizes = np.random.default_rng(seed), []
        for _ in range(40):
            numbers = random.integers(0, 1 << 20, random.integers(1, 9)).tolist()
            reply = place.ask(*numbers, width=int(random.integers(1, 3)))
            assert y(reply) == numbers
            sizes.append(reply.spent.rows)
            assert len(numbers) <= sizes[-1]
        return sizes

    with ThreadPoolExecutor(8) as clients:
        sizes = [size for each in clients.map(client, range(8)) for size in each]
    assert max(sizes) <= 8
    assert place.model.waiting == 0


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_error_for_one_request_is_its_own(load: Load) -> None:
    """The others of its call are answered."""
    place = load()
    place.hold()
    others = [place.put(1), place.put(2, do="fail"), place.put(3)]
    place.go()
    first, failed, third = (each.result(20) for each in others)

    assert (count(first), count(third)) == (3, 3)
    assert (failed.status, json.loads(bytes(failed.body))["error"]) == (424, "not this one")


def test_an_exception_of_execute_fails_all_of_the_call_and_no_more(load: Load) -> None:
    """As an error or as a reply that is one; the next batch is answered."""
    place = load()
    place.hold()
    others = [place.put(1), place.put(2, do="raise"), place.put(3, width=2), place.put(4, width=2)]
    place.go()

    assert ["told to" in failure(each) for each in others[:2]] == [True, True]
    assert counts(others[2:]) == [2, 2]


def test_a_worker_that_dies_fails_its_call_and_no_more(load: Load) -> None:
    """The next batch is answered by the next worker."""
    place = load()
    place.hold()
    others = [place.put(1), place.put(2, do="die"), place.put(3, width=2), place.put(4, width=2)]
    place.go()

    assert [type(error_of(each)) for each in others[:2]] == [WorkerLostError] * 2
    assert counts(others[2:]) == [2, 2]


def test_who_gave_up_waiting_does_not_run(load: Load) -> None:
    """The deadline of a request in line: it is gone before its batch is formed."""
    place = load()
    place.hold()
    late, other = place.put(1, wait_s=0.2), place.put(2)
    error = error_of(late)
    place.go()

    assert isinstance(error, UnavailableError)
    assert "was not free until the request's deadline" in str(error)
    assert count(other.result(20)) == 1


def test_a_late_worker_has_as_long_as_the_request_had_in_line(load: Load) -> None:
    """Whoever came late to a worker is not slow for that: both pass their deadline while they are with it."""
    place = load()
    place.hold()
    began = time.monotonic()
    both = [place.put(1, do="wait2", wait_s=3), place.put(2, wait_s=3)]
    until(lambda: time.monotonic() > began + 1.2)
    place.go()
    until(lambda: time.monotonic() > began + 3.2)
    place.go("wait2")

    assert counts(both) == [2, 2]


def test_more_rows_than_the_model_takes_are_a_bad_request(load: Load) -> None:
    """Also by the routes that know nothing of batches."""
    with pytest.raises(BadRequestError, match="batch-size must be <= 8"):
        load().ask(*range(9))


def test_closing_fails_who_waits(load: Load) -> None:
    """At once, and whoever comes later."""
    place = load()
    held = place.hold()
    waiting = place.put(1)
    place.model.close()

    assert isinstance(error_of(waiting), UnavailableError)
    assert isinstance(error_of(held), UnavailableError)
    with pytest.raises(UnavailableError, match="is being unloaded"):
        place.ask(1)


# ---- what it says of itself ------------------------------------------------------------------------------------------


def test_each_request_knows_how_long_it_waited_and_what_it_was_part_of(load: Load) -> None:
    """One request of each call counts it: one that is counted itself."""
    place = load()
    first = place.hold()
    others = [place.put(1, do="fail"), place.put(2), place.put(3, 4)]
    place.go()
    spent = [each.result(20).spent for each in others]

    assert [(each.rows, each.is_first) for each in spent] == [(4, False), (4, True), (4, False)]
    assert all(each.queue_ns > 0 and each.infer_ns > 0 for each in spent)
    assert spent[0].infer_ns == spent[1].infer_ns
    assert (first.result().spent.rows, first.result().spent.is_first) == (1, True)
    assert first.result().spent.queue_ns < first.result().spent.infer_ns


def test_a_model_may_complete_its_own_batching(load: Load) -> None:
    """auto_complete_config says what config.pbtxt left out."""
    complete = """
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(4)
        config.set_dynamic_batching()
        return config

    def execute("""
    code = MODEL.replace("\n    def execute(", complete, 1)
    place = load(CONFIG.replace("max_batch_size: 8", ""), code)
    place.hold()
    others = [place.put(1, 2), place.put(3, 4), place.put(5)]
    place.go()

    assert counts(others) == [2, 2, 1]


@pytest.mark.parametrize("said", [None, [], {}, {"max_batch_size": "8"}])
def test_what_a_worker_says_of_its_batching_may_be_nothing(said: object) -> None:
    """Then config.pbtxt stands alone."""
    scheduling = Scheduling(max_batch_size=2)
    assert _completed(scheduling, said) is scheduling


def test_a_warm_up_is_beside_the_batcher(load: Load) -> None:
    """`run` is nobody's request."""
    outputs = load().model.run({"x": np.ones((2, 1), np.int32)})
    assert outputs["count"].tolist() == [[1], [1]]


def test_a_sample_that_the_model_fails_on_fails(load: Load) -> None:
    """A warm-up that raises is a load that fails, whether execute raises or answers with an error."""
    place = load(
        code=MODEL.replace("    def execute(self, requests):", "    def execute(self, requests):\n        1 / 0")
    )
    with pytest.raises(ModelFailedError, match="division by zero"):
        place.model.run({"x": np.ones((1, 1), np.int32)})


def test_a_sample_of_a_decoupled_model_gives_its_worker_back(load: Load) -> None:
    """However often it answers."""
    place = decoupled(load)
    for _ in range(3):
        assert place.model.run({"x": np.full((3, 1), 3, np.int32)}) == {}
    assert place.model.invoke(Request(tensors={"x": np.ones((1, 1), np.int32)}), soon(5)).status == 200


@pytest.mark.parametrize(
    ("config", "kind"),
    [(BATCHING, GroupedModel), ("backend: 'python'", WorkerModel), ("batch_size = 4", WorkerModel)],
)
def test_who_sets_a_batch_size_in_wharf_toml_has_its_batches(
    backend: GroupingBackend, tmp_path: Path, config: str, kind: type
) -> None:
    """Our own configuration goes before Triton's."""
    folder = write(tmp_path / "m", CONFIG if "=" in config else config)
    if "=" in config:
        (folder / "wharf.toml").write_text(config)
    model = backend.load(describe("m", folder))
    try:
        assert type(model) is kind
    finally:
        model.close()


def test_workers_of_other_dialects_are_left_to_their_own_line(backend: GroupingBackend, tmp_path: Path) -> None:
    """The pool's."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/inference.py").write_text("def model_fn(folder): return len\n")
    model = backend.load(describe("m", tmp_path))
    model.close()
    assert type(model) is WorkerModel


# ---- workers come and go ---------------------------------------------------------------------------------------------


def test_a_worker_that_died_is_replaced_and_takes_batches_again(load: Load) -> None:
    """The number of batches at once is that of the workers, which was none for a moment."""
    place = load()
    with pytest.raises(WorkerLostError):
        place.ask(1, do="die")
    place.hold()
    others = [place.put(1), place.put(2)]
    place.go()
    assert counts(others) == [2, 2]


class Generous:
    """A host with room for everybody."""

    def grow(self, count: int) -> bool:
        return True

    def correct(self, count: int) -> None:
        """Take no notice."""

    def withdraw(self, reason: str) -> None:
        """Take no notice."""


def test_a_long_line_starts_one_more_worker(load: Load) -> None:
    """Where nobody said how many instances: more than two batches wait, and the second worker takes the next."""
    place = load(BATCHING.replace(": 8", ": 1"))
    place.model.attach(Generous())
    first = place.hold()
    waiting = [place.put(number) for number in range(4)]

    assert [y(each.result(20)) for each in waiting] == [[0], [1], [2], [3]]
    assert not first.done()
    place.go()


# ---- streams ---------------------------------------------------------------------------------------------------------


def decoupled(load: Load) -> Place:
    code = MODEL[: MODEL.index("    def execute")] + DECOUPLED.lstrip("\n") + MODEL[MODEL.index("    def wait") - 1 :]
    return load(BATCHING + "model_transaction_policy { decoupled: true }", code)


def test_a_decoupled_model_gets_lists_too(load: Load) -> None:
    """Each request has its own answers: one is a normal one, several are lines."""
    place = decoupled(load)
    place.hold()
    one, three = place.put(1), place.put(3)
    place.go()

    assert count(one.result(20)) == 2
    assert [json.loads(line)["outputs"][1]["data"] for line in bytes(three.result(20).body).splitlines()] == [[2]] * 3


def test_a_stream_holds_its_place_among_the_batches_to_its_end(load: Load) -> None:
    """Who comes meanwhile waits in line, and shares the next call."""
    place = decoupled(load)
    stream = place.ask(3)
    others = [place.put(1), place.put(1)]
    assert place.model.waiting == 2
    assert stream.chunks is not None

    assert len(list(stream.chunks)) == 3
    assert counts(others) == [2, 2]
