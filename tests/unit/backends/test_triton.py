"""The backend over a real tritonserver: its models are Python's, as no other backend is in the wheel."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.backends.triton import TritonBackend, TritonModel
from serving.backends.triton_messages import call_error, message_of, tensors_of
from serving.errors import (
    BadRequestError,
    DeadlineExceededError,
    InsufficientMemoryError,
    InvalidArtifactError,
    LoadFailedError,
    ModelFailedError,
    UnavailableError,
    UnsupportedError,
)
from serving.outcomes import streamed
from serving.repository.layouts import describe
from serving.tensors import TensorSpec
from serving.workers.handler import Request
from tests.triton.models import CONFIG, spec_of, write_model
from tests.unit.backends.grpc_errors import Failed
from tests.waiting import until

X = np.array([[1, 2]], np.float32)
DECOUPLED = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for value in pb_utils.get_input_tensor_by_name(request, "x").as_numpy():
                if value < 0:
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("below zero")))
                else:
                    sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([value]))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
SLOW = "import time; answer = self.execute; self.execute = lambda requests: (time.sleep(1), answer(requests))[1]"


class _Host:
    """Hears that a model is beyond repair."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def grow(self, count: int) -> bool:
        raise AssertionError(count)

    def correct(self, count: int) -> None:
        raise AssertionError(count)

    def withdraw(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture
def model(backend: TritonBackend, tmp_path: Path) -> Iterator[TritonModel]:
    """One that doubles."""
    model = backend.load(spec_of(write_model(tmp_path / "model")))
    yield model
    model.close()


def test_a_model_answers_with_tensors(backend: TritonBackend, model: TritonModel) -> None:
    """By the names and shapes that the server says of it."""
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 2)),)
    assert model.signature.outputs == (TensorSpec("y", "FP32", (-1, 2)),)
    assert np.array_equal(model.run({"x": X})["y"], 2 * X)
    assert model.held_bytes() > 1 << 20
    assert backend.outside_bytes() > 1 << 20


def test_a_footprint_is_a_process_and_the_files(backend: TritonBackend, tmp_path: Path) -> None:
    """Read whole while it loads."""
    spec = spec_of(write_model(tmp_path / "model"))
    found = backend.footprint(spec)
    assert found.resident_bytes - spec.bytes == found.peak_bytes - 2 * spec.bytes > 40 << 20


def test_without_a_server_a_model_is_refused_by_its_backend(tmp_path: Path) -> None:
    """With what to do."""
    backend = TritonBackend(None, tmp_path, timeout_s=1, load_timeout_s=1)
    with pytest.raises(InvalidArtifactError, match=r"backend 'python', .* WHARF_TRITONSERVER"):
        backend.footprint(spec_of(write_model(tmp_path / "model")))
    assert backend.outside_bytes() == 0
    backend.close()


@pytest.mark.parametrize("of", ["tensorrt_plan", "tensorflow_graphdef"])
def test_what_tritonserver_alone_runs_is_its_own(tmp_path: Path, of: str) -> None:
    """Fields that we would refuse are for it to read."""
    (tmp_path / "1").mkdir()
    (tmp_path / "config.pbtxt").write_text(f'platform: "{of}" sequence_batching {{ }} max_batch_size: 4')
    spec = describe("m", tmp_path)
    assert (spec.format, spec.scheduling.max_batch_size if spec.scheduling else 0) == ("triton", 4)
    assert not spec.warnings


def test_unloaded_is_gone(backend: TritonBackend, tmp_path: Path) -> None:
    """From the server and from its repository, at once."""
    model = backend.load(spec_of(write_model(tmp_path / "model")))
    began = time.monotonic()
    model.close()
    assert time.monotonic() - began < 2
    assert not list(backend.server.repository.glob(model.key))
    with pytest.raises(UnavailableError, match="'m'"):
        model.run({"x": X})


def test_errors_are_of_their_kinds(model: TritonModel) -> None:
    """With the name that people know."""
    with pytest.raises(ModelFailedError, match=r"'m_0', message: ValueError: below zero"):
        model.run({"x": -X})
    with pytest.raises(BadRequestError, match="data-type is 'INT32', but model 'm' expects 'FP32'"):
        model.run({"x": X.astype(np.int32)})


def test_a_deadline_is_kept(backend: TritonBackend, tmp_path: Path) -> None:
    """A model that sleeps keeps nobody."""
    model = backend.load(spec_of(write_model(tmp_path / "model", initialize=SLOW)))
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        model.invoke(Request(tensors={"x": X}), time.monotonic() + 0.3)
    assert time.monotonic() - began < 2
    model.close()


@pytest.mark.parametrize(
    ("words", "kind"), [("no luck", LoadFailedError), ("CUDA out of memory", InsufficientMemoryError)]
)
def test_a_failed_load_leaves_nothing(
    backend: TritonBackend, tmp_path: Path, words: str, kind: type[Exception]
) -> None:
    """Words of memory are 507; a name that looks like them is none."""
    spec = spec_of(write_model(tmp_path / "model", initialize=f"raise RuntimeError({words!r})"), "BLOOM oom")
    with pytest.raises(kind, match=words):
        backend.load(spec)
    assert not list(backend.server.repository.glob("*BLOOM*"))


def test_a_failed_load_has_the_models_own_words(backend: TritonBackend, tmp_path: Path) -> None:
    """Line by line, without the sentence around them: our own load has that too."""
    spec = spec_of(write_model(tmp_path / "model", initialize="raise RuntimeError('no luck')"))
    with pytest.raises(LoadFailedError, match="^load failed for model 'm': version 1 is at") as caught:
        backend.load(spec)
    lines = caught.value.said.splitlines()
    assert lines[:3] == ["RuntimeError: no luck", "", "At:"]
    assert lines[3].startswith("  1/model.py(")


def test_a_load_that_takes_too_long_is_taken_back(
    backend: TritonBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on with it, and nobody would ever unload what nobody knows."""
    monkeypatch.setattr(backend, "_load_timeout_s", 1.0)
    spec = spec_of(write_model(tmp_path / "model", initialize="import time; time.sleep(2.5)"), "slow")
    with pytest.raises(DeadlineExceededError):
        backend.load(spec)
    until(lambda: not list(backend.server.repository.glob("*slow*")), 30)
    index = backend.server.stub().RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
    assert not [each.name for each in index if "slow" in each.name]


def test_a_withdrawal_before_anybody_listens_is_not_lost(model: TritonModel) -> None:
    """A model of several that is lost while the others still load."""
    host = _Host()
    model.withdraw("gone")
    model.attach(host)
    assert host.reasons == ["Model 'm' was not loaded again after tritonserver died: gone"]


def test_an_output_of_a_type_that_arrays_have_not_is_said_so() -> None:
    """It is the model's, not the client's."""
    response = pb.ModelInferResponse(raw_output_contents=[b"1234"])
    response.outputs.add(name="y", datatype="BF16", shape=[2])
    with pytest.raises(UnsupportedError, match="'y' is BF16"):
        tensors_of(response)


def test_a_decoupled_model_streams(backend: TritonBackend, tmp_path: Path) -> None:
    """As often as it likes; an error is an answer too."""
    config = CONFIG.replace("max_batch_size: 8", "model_transaction_policy { decoupled: true }")
    folder = write_model(tmp_path / "model", config=config.replace("dims: [ 2 ]", "dims: [ -1 ]"))
    (folder / "1/model.py").write_text(DECOUPLED)
    model = backend.load(spec_of(folder))
    given = {"x": np.array([1, 2, -1], np.float32)}
    with pytest.raises(UnsupportedError, match="generate_stream"):
        model.invoke(Request(tensors=given), time.monotonic() + 10)
    reply = model.invoke(Request(tensors=given, about={"stream": "tensors"}), time.monotonic() + 10)
    assert reply.chunks is not None
    *came, last = [piece for frames in reply.chunks for piece in streamed(frames)]
    assert [float(piece.outputs["y"][0]) for piece in came] == [1, 2]
    assert last.error is not None
    assert "below zero" in last.error.text
    model.close()


def test_all_that_a_client_says_travels() -> None:
    """In the fields that Triton has for it."""
    about = {
        "id": "a",
        "parameters": {"text": "b", "on": True, "count": 3, "part": 0.5},
        "outputs": ["y"],
        "priority": 2,
        "timeout_us": 9,
        "sequence_id": 2**63,
        "flags": 3,
    }
    message = message_of("key", Request(tensors={"x": X, "words": np.array([b"hey"], object)}, about=about))
    assert (message.model_name, message.id, [each.name for each in message.outputs]) == ("key", "a", ["y"])
    assert [(each.name, each.datatype, list(each.shape)) for each in message.inputs] == [
        ("x", "FP32", [1, 2]),
        ("words", "BYTES", [1]),
    ]
    assert message.raw_input_contents[1] == b"\3\0\0\0hey"
    said = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items()}
    assert said == about["parameters"] | {  # type: ignore[operator]
        "sequence_id": 2**63,
        "sequence_start": True,
        "sequence_end": True,
        "priority": 2,
        "timeout": 9,
    }


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_a_number_that_no_field_holds_is_a_bad_request(model: TritonModel, number: int) -> None:
    """Not a server that is started again, for which a client would ask again."""
    with pytest.raises(BadRequestError, match=f"Parameter 'n' is {number}, which no 64 bits hold"):
        model.invoke(Request(tensors={"x": X}, about={"parameters": {"n": number}}), time.monotonic() + 5)


def test_only_a_closed_channel_is_a_server_that_is_started_again(backend: TritonBackend) -> None:
    """Another fault of that type is our own, and said as one."""
    with pytest.raises(UnavailableError), backend.errors("m", "1-m"):
        raise ValueError("Cannot invoke RPC on closed channel!")
    with pytest.raises(ValueError, match="cannot reshape"), backend.errors("m", "1-m"):
        raise ValueError("cannot reshape array")


def test_a_killed_server_is_back_with_its_models(backend: TritonBackend, model: TritonModel, tmp_path: Path) -> None:
    """One that cannot be loaded again is taken out, with the reason."""
    lost_folder, host = write_model(tmp_path / "lost"), _Host()
    lost = backend.load(spec_of(lost_folder, "lost"))
    lost.attach(host)
    shutil.rmtree(lost_folder)
    pid = backend.server.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)

    until(lambda: backend.server.pid not in (None, pid), 30)
    with pytest.raises(UnavailableError):  # not yet
        model.run({"x": X})
    until(lambda: host.reasons, 60)
    assert "Model 'lost' was not loaded again after tritonserver died" in host.reasons[0]
    assert lost.key not in host.reasons[0]
    until(lambda: _answers(model), 60)
    lost.close()
    assert len(list(Path("/dev/shm").glob("wharf_triton_*"))) <= 2  # one lived on in the dead server's name


def test_a_server_that_dies_on_a_request_is_its_failure(backend: TritonBackend, tmp_path: Path) -> None:
    """It had the request; who comes while there is none has not been heard."""
    begun = tmp_path / "begun"
    once = f"file = {str(begun)!r}; answer = self.execute; self.execute = lambda requests: ("
    once += "os.path.exists(file) or (open(file, 'w').close(), __import__('time').sleep(60)), answer(requests))[1]"
    model = backend.load(spec_of(write_model(tmp_path / "model", initialize=once)))
    pid = backend.server.pid
    assert pid is not None

    def kill() -> None:
        until(begun.exists)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(UnavailableError, match=r"tritonserver died|Channel closed") as caught:
        model.invoke(Request(tensors={"x": X}), time.monotonic() + 30)
    assert caught.value.has_run
    killer.join()
    until(lambda: backend.server.shared_bytes() == 0)  # it is known to be gone
    with pytest.raises(UnavailableError) as refused:
        model.run({"x": X})
    assert not refused.value.has_run
    until(lambda: _answers(model), 60)
    model.close()


@pytest.mark.parametrize(
    ("code", "text", "has_run"),
    [
        ("UNAVAILABLE", "Socket closed", True),
        ("CANCELLED", "Channel closed!", True),
        ("UNAVAILABLE", "[request id: a] Exceeds maximum queue size", False),
        ("UNAVAILABLE", "Request for unknown model: '1-m' has no available versions", False),
        ("UNAVAILABLE", "failed to connect to all addresses", False),
        ("NOT_FOUND", "Request for unknown model: '1-m' is not found", False),
        ("INVALID_ARGUMENT", "unexpected shape", False),
    ],
)
def test_only_a_request_that_broke_off_counts_as_the_models(code: str, text: str, *, has_run: bool) -> None:
    """What found no place in its line, or no model, was rejected."""
    error = call_error(Failed(grpc.StatusCode[code], text), "m", "1-m")
    assert (error.has_run, "1-m" in error.message) == (has_run, False)


def _answers(model: TritonModel) -> bool:
    try:
        return bool(np.array_equal(model.run({"x": X})["y"], 2 * X))
    except UnavailableError:
        return False


def test_what_is_unloaded_while_the_server_is_gone_is_gone(backend: TritonBackend, tmp_path: Path) -> None:
    """There is nobody to ask, and nothing to wait for."""
    model = backend.load(spec_of(write_model(tmp_path / "model")))
    pid = backend.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: backend.server.pid != pid)
    model.close()
    assert not (backend.server.repository / model.key).exists()


@pytest.mark.parametrize("binary", ["/bin/false", "/nowhere/tritonserver"])
def test_a_server_that_does_not_start_says_so(tmp_path: Path, binary: str) -> None:
    """At once, not after a minute."""
    backend = TritonBackend(Path(binary), tmp_path, timeout_s=1, load_timeout_s=1)
    began = time.monotonic()
    with pytest.raises(LoadFailedError, match=f"{binary}.*before it was live"):
        backend.prepare()
    assert time.monotonic() - began < 20
    backend.close()
