"""Traces, the log and shared memory over gRPC, by the vendor's client and by messages that it does not send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from serving.server import Server
from serving.shared_memory import Regions
from tests.models import make_fake
from tests.unit.grpc.test_listener import server

triton = pytest.importorskip("tritonclient.grpc")
from tritonclient.grpc import service_pb2 as pb  # noqa: E402
from tritonclient.grpc import service_pb2_grpc  # noqa: E402

ADMIN = {"authorization": "Bearer s3cret"}
METADATA = tuple(ADMIN.items())


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Server]:
    """A server process's rooms, with one fake model, the admin token and a folder for shared memory."""
    make_fake(tmp_path, "a", scale=2)
    made = server(tmp_path, 0, WHARF_FAKE_BACKEND="1", WHARF_ADMIN_TOKEN="s3cret")
    made.inference.regions = Regions(is_on=True, folder=tmp_path)
    made.start()
    yield made
    made.close()


@pytest.fixture
def client(built: Server) -> Iterator[Any]:
    """The vendor's client of it."""
    assert built._grpc is not None
    with triton.InferenceServerClient(built._grpc.address) as opened:
        yield opened


@pytest.fixture
def stub(built: Server) -> Iterator[Any]:
    """The bare methods."""
    assert built._grpc is not None
    with grpc.insecure_channel(built._grpc.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def refused(call: Callable[[], object]) -> tuple[str, str]:
    """The status and the text that a call ends with."""
    with pytest.raises((triton.InferenceServerException, grpc.RpcError)) as caught:
        call()
    found: Any = caught.value
    if isinstance(found, grpc.RpcError):
        return found.code().name, found.details()
    return found.status().removeprefix("StatusCode."), found.message()


def log_request(**settings: Any) -> Any:
    """A request that changes log settings."""
    value = pb.LogSettingsRequest.SettingValue
    return pb.LogSettingsRequest(settings={name: value(**choice) for name, choice in settings.items()})


def test_trace_settings_are_read_and_set(client: Any) -> None:
    """Of all and of a model; an empty value resets one."""
    assert client.get_trace_settings().settings["trace_level"].value == ["OFF"]
    changed = client.update_trace_settings("a", {"trace_rate": "5", "trace_level": ["TIMESTAMPS"]}, headers=ADMIN)
    assert changed.settings["trace_rate"].value == ["5"]
    assert client.get_trace_settings("a").settings["trace_level"].value == ["TIMESTAMPS"]
    client.update_trace_settings("a", {"trace_rate": None, "trace_level": None}, headers=ADMIN)
    assert client.get_trace_settings("a") == client.get_trace_settings()


def test_traces_that_cannot_be_are_refused(client: Any, stub: Any) -> None:
    """A model that is none, two values, a file."""
    assert refused(lambda: client.get_trace_settings("nope")) == (
        "INVALID_ARGUMENT",
        "Request for unknown model : nope",
    )
    two = pb.TraceSettingRequest(settings={"trace_rate": pb.TraceSettingRequest.SettingValue(value=["1", "2"])})
    assert refused(lambda: stub.TraceSetting(two, metadata=METADATA)) == (
        "INVALID_ARGUMENT",
        "expect only 1 value for 'trace_rate'",
    )
    status, _ = refused(lambda: client.update_trace_settings(settings={"trace_file": "x"}, headers=ADMIN))
    assert status == "UNIMPLEMENTED"


def test_log_settings_are_read_and_set(client: Any) -> None:
    """Each as the choice of the message that Triton has it in."""
    found = client.update_log_settings({"log_verbose_level": 1, "log_format": "ISO8601"}, headers=ADMIN).settings
    assert (found["log_verbose_level"].uint32_param, found["log_format"].string_param) == (1, "ISO8601")
    client.update_log_settings({"log_verbose_level": 0, "log_format": "default"}, headers=ADMIN)
    found = client.get_log_settings().settings
    assert (found["log_info"].bool_param, found["log_verbose_level"].uint32_param) == (True, 0)
    assert len(found) == 6


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"log_info": {"string_param": "x"}}, "expect boolean for 'log_info'"),
        ({"log_error": {}}, "expect boolean for 'log_error'"),
        ({"log_verbose_level": {"bool_param": True}}, "expect int32 for 'log_verbose_level'"),
        ({"log_format": {"uint32_param": 1}}, "expect string for 'log_format'"),
        ({"log_format": {"string_param": "fancy"}}, "invalid argument for log_format, got: fancy"),
    ],
)
def test_a_log_setting_of_another_type_is_refused(stub: Any, settings: dict[str, Any], text: str) -> None:
    """In Triton's words."""
    call = log_request(**settings)
    assert refused(lambda: stub.LogSettings(call, metadata=METADATA)) == ("INVALID_ARGUMENT", text)


def test_a_log_setting_that_is_none_is_ignored(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    """And in the log."""
    call = log_request(nonsense={"bool_param": True}, nothing={})
    assert stub.LogSettings(call, metadata=METADATA) == stub.LogSettings(log_request())
    assert "name='nonsense'" in caplog.text


def test_shared_memory_is_registered_used_and_let_go(client: Any, tmp_path: Path) -> None:
    """Tensors of a request and its answer never travel."""
    (tmp_path / "key").write_bytes(np.array([3, 0], np.float32).tobytes())
    client.register_system_shared_memory("r", "key", 8, headers=ADMIN)
    assert [each.byte_size for each in client.get_system_shared_memory_status().regions.values()] == [8]
    x, y = triton.InferInput("x", [1, 1], "FP32"), triton.InferRequestedOutput("y")
    x.set_shared_memory("r", 4)
    y.set_shared_memory("r", 4, 4)
    answer = client.infer("a", [x], outputs=[y])
    assert list(answer.get_response().raw_output_contents) == [b""]
    assert np.frombuffer((tmp_path / "key").read_bytes(), np.float32).tolist() == [3, 6]
    client.unregister_system_shared_memory("r", headers=ADMIN)
    assert refused(lambda: client.get_system_shared_memory_status("r"))[0] == "NOT_FOUND"
    assert not client.get_system_shared_memory_status().regions


def test_who_changes_something_has_the_token(client: Any) -> None:
    """Who reads needs none."""
    calls = (
        lambda: client.update_trace_settings(settings={"trace_rate": "1"}),
        lambda: client.update_log_settings({"log_info": False}),
        lambda: client.register_system_shared_memory("r", "key", 8),
        client.unregister_system_shared_memory,
    )
    assert [refused(call)[0] for call in calls] == ["UNAUTHENTICATED"] * 4
