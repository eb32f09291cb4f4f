"""The methods of the service in this process, over a real channel; tests/v2 asks them of a server with every kind."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.grpc.calls import CALLS_MAX, MANAGEMENT_MAX
from serving.server import Server
from tests.models import make_fake
from tests.unit.grpc.test_listener import server

triton = pytest.importorskip("tritonclient.grpc")
pb = pytest.importorskip("tritonclient.grpc.service_pb2")
grpc = pytest.importorskip("grpc")


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Server]:
    """A server process's rooms, with one fake model and the admin token."""
    make_fake(tmp_path, "a")
    made = server(tmp_path, 0, WHARF_FAKE_BACKEND="1", WHARF_ADMIN_TOKEN="s3cret")
    made.start()
    yield made
    made.close()


@pytest.fixture
def client(built: Server) -> Iterator[Any]:
    """The vendor's client of it."""
    assert built._grpc is not None
    with triton.InferenceServerClient(built._grpc.address) as opened:
        yield opened


def asked() -> dict[str, Any]:
    """A request for the model."""
    made = triton.InferInput("x", [1, 1], "FP32")
    made.set_data_from_numpy(np.zeros((1, 1), np.float32))
    return {"model_name": "a", "inputs": [made]}


def code(call: Callable[[], object]) -> str:
    """The status that a call ends with."""
    with pytest.raises(triton.InferenceServerException) as caught:
        call()
    return str(caught.value.status()).removeprefix("StatusCode.")


def test_a_model_is_described_asked_and_counted(client: Any, built: Server) -> None:
    """One request is one invocation of the metrics, and no bytes are left behind."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("a")
    assert client.get_server_metadata().name == "wharf"
    assert client.get_model_metadata("a").inputs[0].name == "x"
    assert client.get_model_config("a").config.name == "a"
    assert client.infer(**asked()).get_response().model_name == "a"
    assert client.get_inference_statistics("a").model_stats[0].inference_count == 1
    assert built.metrics.value("Invocations") == 1


def test_what_cannot_be_is_refused_with_a_status(client: Any, built: Server) -> None:
    """An unknown model, a name that is none, what is not here, no token; errors are counted."""
    assert code(lambda: client.infer(**asked() | {"model_name": "nope"})) == "NOT_FOUND"
    assert code(lambda: client.get_model_config("a/../b")) == "INVALID_ARGUMENT"
    assert code(client.get_cuda_shared_memory_status) == "UNIMPLEMENTED"
    assert code(client.get_model_repository_index) == "UNAUTHENTICATED"
    assert built.metrics.value("Invocation4XXErrors") == 1


def test_loads_take_no_place_of_a_request(client: Any, built: Server) -> None:
    """Nor do requests take theirs: either is refused only by its own kind."""
    assert built._grpc is not None
    calls, headers = built._grpc._service.calls, {"authorization": "Bearer s3cret"}
    with contextlib.ExitStack() as places:
        for _ in range(MANAGEMENT_MAX):
            places.enter_context(calls.managing)
        client.infer(**asked())
        assert code(lambda: client.load_model("a", headers=headers)) == "UNAVAILABLE"
        assert code(lambda: client.unload_model("a", headers=headers)) == "UNAVAILABLE"
        assert code(lambda: client.get_model_config("a")) == "UNAVAILABLE"
        assert not calls.wait_until_idle(0)
    with contextlib.ExitStack() as places:
        for _ in range(CALLS_MAX):
            places.enter_context(calls.running)
        client.load_model("a", headers=headers)
        client.get_model_config("a")
        assert code(lambda: client.infer(**asked())) == "UNAVAILABLE"
    assert calls.wait_until_idle(0)


def test_the_repository_is_open_to_the_token(client: Any) -> None:
    """Load, look, unload."""
    headers = {"authorization": "Bearer s3cret"}
    client.load_model("a", headers=headers)
    assert [each.state for each in client.get_model_repository_index(headers=headers).models] == ["READY"]
    assert code(lambda: client.load_model("a", headers=headers, config="{}")) == "INTERNAL"
    client.unload_model("a", headers=headers, unload_dependents=True)
    assert not client.is_model_ready("a")


def test_repositories_have_no_names(client: Any) -> None:
    """As with Triton."""
    stub, metadata = client._client_stub, (("authorization", "Bearer s3cret"),)
    for call, kind in (
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest),
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest),
    ):
        with pytest.raises(grpc.RpcError, match="'repository_name' specification is not supported"):
            call(kind(repository_name="here", model_name="a"), metadata=metadata)


def test_a_stream_answers_and_goes_on_after_an_error(client: Any) -> None:
    """A model that answers once has its marker on the answer."""
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    client.async_stream_infer(**asked() | {"model_name": "nope"})
    client.async_stream_infer(**asked(), enable_empty_final_response=True)
    error, result = found.get(timeout=10)[1], found.get(timeout=10)[0]
    client.stop_stream()
    assert "'nope' is not found" in str(error)
    assert result.get_response().parameters["triton_final_response"].bool_param
