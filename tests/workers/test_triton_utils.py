"""The module that models of Triton's Python backend import: its names, requests, senders, metrics and configuration."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from serving.workers.compat import triton_python_backend_utils as pb_utils
from serving.workers.compat.triton_python_backend_utils import _metrics, _models, _sender

ZEROS = np.zeros(2, np.float32)


def test_every_name_that_people_import_is_there() -> None:
    """The surface of Triton's module, constants with their values."""
    for name in pb_utils.__all__:
        assert hasattr(pb_utils, name)
    assert pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL == 1
    assert (pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END) == (
        1,
        2,
    )
    assert (pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL, pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE) == (1, 2)


def test_an_error_has_a_message_and_a_code() -> None:
    """INTERNAL where none is said."""
    assert [pb_utils.TritonError("no").code(), pb_utils.TritonError("no").message()] == [
        pb_utils.TritonError.INTERNAL,
        "no",
    ]
    assert str(pb_utils.TritonError("no", pb_utils.TritonError.NOT_FOUND)) == "no"
    assert pb_utils.TritonModelException("bad").message() == "bad"
    with pytest.raises(TypeError, match="wants a string"):
        pb_utils.TritonError(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="UNKNOWN to CANCELLED"):
        pb_utils.TritonError("no", 500)


def test_a_response_has_outputs_or_an_error() -> None:
    """And parameters as JSON."""
    error = pb_utils.TritonError("no")
    response = pb_utils.InferenceResponse([pb_utils.Tensor("y", ZEROS)], parameters={"a": 1})
    assert pb_utils.get_output_tensor_by_name(response, "y") is response.output_tensors()[0]
    assert pb_utils.get_output_tensor_by_name(response, "z") is None
    assert (response.has_error(), response.error(), json.loads(response.parameters())) == (False, None, {"a": 1})
    assert pb_utils.InferenceResponse(error=error).error() is error
    with pytest.raises(TypeError, match="wants a Tensor"):
        pb_utils.InferenceResponse([ZEROS])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="wants a TritonError"):
        pb_utils.InferenceResponse([], "no")  # type: ignore[arg-type]


def test_a_request_that_a_model_makes_reaches_nobody() -> None:
    """Each way of calling another model says so."""
    request = pb_utils.InferenceRequest(model_name="other", requested_output_names=["y"], inputs=[])
    calls: list[Callable[[], object]] = [
        request.exec,
        lambda: request.exec(decoupled=True),
        request.async_exec,
        lambda: pb_utils.load_model("other"),
        lambda: pb_utils.unload_model("other"),
        lambda: pb_utils.is_model_ready("other"),
    ]
    for call in calls:
        with pytest.raises(pb_utils.TritonModelException, match="the model 'other' from a model is not possible"):
            call()
    with pytest.raises(pb_utils.TritonModelException, match="nobody waits"):
        request.get_response_sender()


def test_a_request_keeps_what_it_is_given() -> None:
    """In Triton's order of arguments; flags may be changed."""
    memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_GPU, 1)
    x = pb_utils.Tensor("x", ZEROS)
    request = pb_utils.InferenceRequest("id", "abc", [x], ["y"], "m", 2, 1, 9, memory, parameters={"k": True})
    request.set_flags(pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)
    assert (request.request_id(), request.correlation_id(), request.flags(), request.timeout()) == ("id", "abc", 2, 9)
    assert pb_utils.get_input_tensor_by_name(request, "x") is x
    assert pb_utils.get_input_tensor_by_name(request, "z") is None
    assert json.loads(request.parameters()) == {"k": True}
    assert request.preferred_memory is memory
    assert memory.preferred_device_id == 1
    assert not request.is_cancelled()


def test_a_request_is_not_run_again() -> None:
    """Releasing it is all that there is."""
    request = pb_utils.InferenceRequest(inputs=[])
    request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_ALL)
    with pytest.raises(pb_utils.TritonModelException, match="does not run a request again"):
        request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)


def connected() -> tuple[_sender.Mailbox, pb_utils.InferenceRequest]:
    mailbox, request = _sender.Mailbox(), pb_utils.InferenceRequest(inputs=[])
    request.connect(mailbox)
    return mailbox, request


def test_what_is_sent_arrives_in_order() -> None:
    """A response, a response, the end; from another thread."""
    mailbox, request = connected()
    response = pb_utils.InferenceResponse()

    def send() -> None:
        sender = request.get_response_sender()
        sender.send(response)
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    threading.Thread(target=send).start()
    assert [mailbox.get(), mailbox.get()] == [(response, False), (None, True)]
    assert mailbox.is_taken


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "neither a response nor flags"),
        ((None, 2), "flags 2"),
        (("y",), "has a str and wants an InferenceResponse"),
    ],
)
def test_what_cannot_be_sent_is_told(arguments: tuple[Any, ...], fault: str) -> None:
    """And is not sent."""
    _, request = connected()
    with pytest.raises(pb_utils.TritonModelException, match=fault):
        request.get_response_sender().send(*arguments)


def test_nothing_is_sent_after_the_end() -> None:
    """A model that does has a mistake."""
    _, request = connected()
    sender = request.get_response_sender()
    sender.send(flags=1)
    with pytest.raises(pb_utils.TritonModelException, match="after the final response"):
        sender.send(pb_utils.InferenceResponse())


def test_letting_go_of_a_sender_is_an_end() -> None:
    """Also in a circle, when it is collected."""
    mailbox, request = connected()
    circle = [request]
    circle.append(circle)  # type: ignore[arg-type]
    del request, circle
    gc.collect()
    found, is_last = mailbox.get()
    assert (type(found), is_last) == (_sender.Abandoned, True)


def test_the_folder_is_told_once_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a served model there is none."""
    monkeypatch.setattr(_models, "_model_dir", [])
    with pytest.raises(pb_utils.TritonModelException, match="for models that are being served"):
        pb_utils.get_model_dir()
    _models.set_model_dir("/m/1")
    assert pb_utils.get_model_dir() == "/m/1"


def test_lines_of_the_log_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """With their level; verbose ones are left out."""
    logger = pb_utils.Logger
    logger.log_info("a")
    logger.log_warn("b")
    logger.log_error("c")
    logger.log_verbose("d")
    logger.log("e")
    logger.log("f", logger.ERROR)
    assert capsys.readouterr().err.splitlines() == ["INFO a", "WARNING b", "ERROR c", "INFO e", "ERROR f"]


@pytest.fixture
def no_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of one test are not the next one's."""
    monkeypatch.setattr(_metrics, "_families", {})


@pytest.mark.usefixtures("no_families")
def test_metrics_count() -> None:
    """A counter goes up, a gauge anywhere; one of the same labels is the same."""
    family = pb_utils.MetricFamily("requests", "How many", pb_utils.MetricFamily.COUNTER)
    family.Metric(labels={"model": "m"}).increment(2)
    family.Metric(labels={"model": "m"}).increment(0.5)
    gauge = pb_utils.MetricFamily(name="depth", description="", kind=pb_utils.GAUGE).Metric()
    gauge.set(3)
    gauge.increment(-1)
    assert (family.Metric(labels={"model": "m"}).value(), gauge.value()) == (2.5, 2)
    assert _metrics.snapshot()["requests"] == {
        "kind": "counter",
        "description": "How many",
        "metrics": [{"labels": {"model": "m"}, "value": 2.5}],
    }


@pytest.mark.usefixtures("no_families")
def test_a_histogram_counts_by_bounds() -> None:
    """A value on a bound is below it."""
    metric = pb_utils.MetricFamily("ms", "", pb_utils.HISTOGRAM).Metric(buckets=[1, 10])
    for value in (0.5, 1, 5, 100):
        metric.observe(value)
    assert metric.read() == {"sum": 106.5, "bounds": [1, 10], "counts": [2, 1, 1]}


@pytest.mark.usefixtures("no_families")
def test_what_a_metric_cannot_do_is_told() -> None:
    """By its kind."""
    counter = pb_utils.MetricFamily("n", "", pb_utils.COUNTER)
    with pytest.raises(pb_utils.TritonModelException, match="cannot go down"):
        counter.Metric().increment(-1)
    with pytest.raises(pb_utils.TritonModelException, match=r"is a COUNTER, which has no set\(\): that is for GAUGE"):
        counter.Metric().set(1)
    with pytest.raises(pb_utils.TritonModelException, match="COUNTER already, not a GAUGE"):
        pb_utils.MetricFamily("n", "", pb_utils.GAUGE)
    for kind, buckets in ((pb_utils.COUNTER, [1.0]), (pb_utils.HISTOGRAM, []), (pb_utils.HISTOGRAM, [2.0, 1.0])):
        with pytest.raises(pb_utils.TritonModelException, match="bounds that rise"):
            pb_utils.MetricFamily(kind.name, "", kind).Metric(buckets=buckets)


def config_of(**more: Any) -> pb_utils.ModelConfig:
    return pb_utils.ModelConfig(json.dumps({"name": "m", "max_batch_size": 0, "input": [], "output": []} | more))


X = {"name": "x", "data_type": "TYPE_FP32", "dims": [3]}


def test_a_configuration_is_completed() -> None:
    """What is there and equal stays; what is open is filled; what is not there is added."""
    config = config_of(input=[{"name": "x", "data_type": "TYPE_INVALID", "dims": [], "optional": False}])
    config.add_input(X | {"dims": (3,)})
    config.add_input(X | {"name": "z", "optional": True})
    config.add_output(X)
    config.add_output(X)
    config.set_max_batch_size(4)
    config.set_dynamic_batching()
    config.set_model_transaction_policy({"decoupled": True})
    found = config.as_dict()
    assert found["input"] == [X | {"optional": False}, X | {"name": "z", "optional": True}]
    assert found["output"] == [X]
    assert (found["max_batch_size"], found["dynamic_batching"]) == (4, {})
    assert pb_utils.using_decoupled_model_transaction_policy(found)


@pytest.mark.parametrize(
    ("complete", "fault"),
    [
        (lambda config: config.add_input({"name": "x", "dims": [3]}), "wants the keys name, data_type, dims"),
        (lambda config: config.add_input(X | {"reshape": []}), "wants the keys"),
        (lambda config: config.add_output(X | {"optional": True}), "wants the keys name, data_type, dims"),
        (lambda config: config.add_input(X | {"data_type": "TYPE_INT8"}), "TYPE_INT8, and .* has TYPE_FP32 configured"),
        (lambda config: config.add_input(X | {"dims": [4]}), r"has \[3\] configured"),
        (lambda config: config.set_max_batch_size(2), "max_batch_size 2, and model 'm' is configured with 8"),
        (lambda config: config.set_dynamic_batching(), "sequence_batching"),
        (lambda config: config.set_model_transaction_policy({"decoupled": True}), "is configured with"),
        (lambda config: config.set_model_transaction_policy({"other": 1}), "knows only 'decoupled'"),
    ],
)
def test_what_contradicts_the_configuration_is_a_value_error(
    complete: Callable[[pb_utils.ModelConfig], None], fault: str
) -> None:
    """With both sides."""
    config = config_of(input=[X], max_batch_size=8, sequence_batching={}, model_transaction_policy={"decoupled": False})
    with pytest.raises(ValueError, match=fault):
        complete(config)


def test_a_configurations_tensors_are_found_by_name() -> None:
    """Or not."""
    config = {"input": [X], "output": [{"name": "y"}]}
    assert pb_utils.get_input_config_by_name(config, "x") == X
    assert pb_utils.get_output_config_by_name(config, "y") == {"name": "y"}
    assert pb_utils.get_input_config_by_name(config, "y") is None
    assert pb_utils.get_output_config_by_name({}, "y") is None
    assert not pb_utils.using_decoupled_model_transaction_policy({})
