"""tritonclient.grpc and its asyncio sister, unmodified, against a real server: every method that applies."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.conftest import StartServer
from tests.models import make_fake
from tests.server import RunningServer
from tests.v2.conftest import address_of
from tests.waiting import until

Answers = list[tuple[Any, Any]]


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    """The vendor's client."""
    with triton.InferenceServerClient(address) as opened:
        yield opened


def tensor(name: str, array: Any, datatype: str = "") -> Any:
    """An input with its data."""
    made = triton.InferInput(name, list(array.shape), datatype or triton.np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made


def pair(rows: int = 1, columns: int = 4) -> list[Any]:
    """The inputs of the template."""
    return [tensor(name, np.full((rows, columns), 2, np.float32)) for name in ("INPUT0", "INPUT1")]


def one_row() -> list[Any]:
    """The input of a fake model."""
    return [tensor("x", np.zeros((1, 1), np.float32))]


def stream(client: Any, count: int, *asked: dict[str, Any]) -> Answers:
    """Ask on one stream and return the first `count` answers."""
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    for each in asked:
        client.async_stream_infer(**each)
    answers = [found.get(timeout=30) for _ in range(count)]
    client.stop_stream()
    assert found.empty()
    return answers


def is_final(result: Any) -> bool | None:
    """What the marker says, None without one."""
    parameters = result.get_response().parameters
    return bool(parameters["triton_final_response"].bool_param) if "triton_final_response" in parameters else None


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Return the status and the text that a call ends with."""
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


# ---- the server and its models ---------------------------------------------------------------------------------------


def test_health_of_the_server_and_of_models(client: Any) -> None:
    """A model that would be served is ready; an unknown one is not, and that is no error."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("image")
    assert client.is_model_ready("image", "1")
    assert not client.is_model_ready("image", "9")
    assert not client.is_model_ready("nope")


def test_probes_ask_the_standard_health_service(address: str) -> None:
    """grpc.health.v1: the server, its service by name, one that is not here, and no Watch."""
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        name = b"inference.GRPCInferenceService"
        assert check(b"", timeout=10) == b"\x08\x01"
        assert check(b"\x0a" + bytes([len(name)]) + name, timeout=10) == b"\x08\x01"
        with pytest.raises(grpc.RpcError) as caught:
            check(b"\x0a\x04nope", timeout=10)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/grpc.health.v1.Health/Watch")(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_metadata_of_the_server_and_of_a_model(client: Any) -> None:
    """As over HTTP."""
    server = client.get_server_metadata()
    assert server.name == "wharf"
    assert "statistics" in server.extensions
    model = client.get_model_metadata("image", as_json=True)
    assert model["platform"] == "onnxruntime_onnx"
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "3", "224", "224"]}]


def test_the_configuration_is_the_message_that_triton_defines(client: Any) -> None:
    """Every field that was filled has its place in ModelConfig."""
    config = client.get_model_config("image").config
    assert (config.name, config.backend, config.input[0].name) == ("image", "onnxruntime", "x")
    assert list(config.input[0].dims) == [-1, 3, 224, 224]


def test_statistics_count_what_was_asked(client: Any) -> None:
    """Of one model and of all; an unknown one is an error."""
    client.infer("fake", one_row())
    one = client.get_inference_statistics("fake").model_stats[0]
    assert (one.name, one.inference_count > 0, one.inference_stats.success.count > 0) == ("fake", True, True)
    assert "fake" in {each.name for each in client.get_inference_statistics().model_stats}
    assert refusal(lambda: client.get_inference_statistics("nope")) == (
        "INVALID_ARGUMENT",
        "requested model 'nope' is not available",
    )


# ---- inference -------------------------------------------------------------------------------------------------------


def test_an_image_comes_back_exactly(client: Any) -> None:
    """Raw contents both ways; the request's id returns."""
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    result = client.infer("image", [tensor("x", image)], request_id="7")
    assert np.array_equal(result.as_numpy("y"), np.maximum(image, 0))
    assert (result.get_response().id, result.get_response().model_version) == ("7", "1")


def test_a_model_of_the_python_backend_answers(client: Any) -> None:
    """Only the outputs that were asked for, in the model's order."""
    wanted = [triton.InferRequestedOutput("OUTPUT1"), triton.InferRequestedOutput("OUTPUT0")]
    result = client.infer("triton_python", pair(), outputs=wanted)
    assert [each.name for each in result.get_response().outputs] == ["OUTPUT0", "OUTPUT1"]
    assert result.as_numpy("OUTPUT0").tolist() == [[4, 4, 4, 4]]


def test_texts_come_back_exactly(client: Any) -> None:
    """Any bytes... that the model takes, empty ones too."""
    texts = np.array(["ä".encode(), b"", b"x" * 1000], np.object_)
    assert client.infer("text", [tensor("x", texts)]).as_numpy("y").tolist() == texts.tolist()


def test_classes_are_asked_for_by_an_output(client: Any) -> None:
    """Value and index, the best first."""
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    result = client.infer("int8", [tensor("x", np.array([[1, 9, 5]], np.int8))], outputs=wanted)
    assert result.as_numpy("y").tolist() == [[b"9:1", b"5:2"]]


def test_parameters_priority_and_timeout_are_taken(client: Any) -> None:
    """Of every kind."""
    given = {"a": 1, "b": "text", "c": True}
    assert client.infer("triton_python", pair(), parameters=given, priority=1, timeout=10_000_000, sequence_id=5)


def test_async_infer_calls_back(client: Any) -> None:
    """As often as it was asked."""
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(8):
        client.async_infer("triton_python", pair(), lambda result, error: found.put((result, error)))
    assert all(found.get(timeout=30)[1] is None for _ in range(8))


def test_compression_is_the_channels_own(client: Any) -> None:
    """Both algorithms that the client offers."""
    for algorithm in ("gzip", "deflate"):
        assert client.infer("triton_python", pair(), compression_algorithm=algorithm).as_numpy("OUTPUT1").sum() == 0


ERRORS: dict[str, tuple[str, Callable[[], list[Any]], str, str]] = {
    "unknown model": ("nope", pair, "NOT_FOUND", "Request for unknown model: 'nope' is not found"),
    "illegal name": ("a/../b", pair, "INVALID_ARGUMENT", "is not legal"),
    "missing input": ("triton_python", lambda: pair()[:1], "INVALID_ARGUMENT", "expected 2 inputs but got 1 inputs"),
    "wrong shape": (
        "image",
        lambda: [tensor("x", np.zeros((1, 3, 2, 2), np.float32))],
        "INVALID_ARGUMENT",
        "unexpected shape for input 'x'",
    ),
    "wrong datatype": (
        "image",
        lambda: [tensor("x", np.zeros((1, 3, 224, 224), np.int32))],
        "INVALID_ARGUMENT",
        "data-type is 'INT32'",
    ),
    "a model that fails": ("failing", lambda: [tensor("x", np.zeros(1, np.float32))], "INTERNAL", "it broke"),
    "a decoupled model": (
        "triton_python_decoupled",
        lambda: [tensor("UP_TO", np.array([10]))],
        "UNIMPLEMENTED",
        "decoupled transaction policy",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_have_tritons_codes(client: Any, case: str) -> None:
    """And its texts, as over HTTP."""
    model, inputs, wanted, part = ERRORS[case]
    status, text = refusal(lambda: client.infer(model, inputs()))
    assert (status, part in text) == (wanted, True), text


def test_an_unknown_version_is_not_found(client: Any) -> None:
    """Version 1 is the one."""
    status, text = refusal(lambda: client.infer("triton_python", pair(), model_version="9"))
    assert (status, text) == ("NOT_FOUND", "Request for unknown model: 'triton_python' version 9 is not found")


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_a_decoupled_model_answers_as_often_as_it_likes(client: Any) -> None:
    """Each says that it is not the last; no empty one where none was asked for."""
    asked = {"model_name": "triton_python_decoupled", "inputs": [tensor("UP_TO", np.array([12]))]}
    answers = stream(client, 5, asked | {"request_id": "a"})
    assert [int(result.as_numpy("PRIME")[0]) for result, _ in answers] == [2, 3, 5, 7, 11]
    assert {(result.get_response().id, is_final(result)) for result, _ in answers} == {("a", False)}


def test_the_end_is_marked_for_who_asks(client: Any) -> None:
    """An empty last answer of a decoupled model, the one answer of another."""
    marked: dict[str, Any] = {"enable_empty_final_response": True}
    answers = stream(
        client,
        5,
        marked | {"model_name": "triton_python_decoupled", "inputs": [tensor("UP_TO", np.array([3]))]},
        marked | {"model_name": "triton_python", "inputs": pair()},
        marked | {"model_name": "triton_python_decoupled", "inputs": [tensor("UP_TO", np.array([1]))]},
    )
    found = [(is_final(result), len(result.get_response().outputs)) for result, _ in answers]
    assert found == [(False, 1), (False, 1), (True, 0), (True, 2), (True, 0)]


def test_an_error_is_an_answer_and_the_stream_goes_on(client: Any) -> None:
    """Of an unknown model, and of a model after its first answer."""
    answers = stream(
        client,
        4,
        {"model_name": "nope", "inputs": pair()},
        {"model_name": "odd", "inputs": [tensor("KIND", np.array([1]))]},
        {"model_name": "triton_python", "inputs": pair()},
    )
    assert [str(error or "") for _, error in answers] == [
        "Request for unknown model: 'nope' is not found",
        "",
        "no more of these",
        "",
    ]


def test_streamed_tensors_are_exact(client: Any) -> None:
    """NaN, infinity, floats and bytes that are no text; the model's parameters travel."""
    answers = stream(client, 3, {"model_name": "odd", "inputs": [tensor("KIND", np.array([0]))]})
    numbers = np.concatenate([result.as_numpy("NUMBER") for result, _ in answers])
    assert numbers.tobytes() == np.array([np.nan, np.inf, 0.1], np.float32).tobytes()
    first = answers[0][0]
    assert first.as_numpy("TEXT").tolist() == [b"\xff\x00", b""]
    assert first.get_response().parameters["step"].int64_param == 1


def test_a_client_that_leaves_stops_the_model(client: Any, address: str) -> None:
    """The one worker is free again for the next, whose stream would wait for ever."""
    endless = {"model_name": "triton_python_decoupled", "inputs": [tensor("UP_TO", np.array([10**9]))]}
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: found.put((result, error)))
    client.async_stream_infer(**endless)
    assert found.get(timeout=30)[1] is None
    client.stop_stream(cancel_requests=True)
    with triton.InferenceServerClient(address) as other:
        answers = stream(other, 1, endless | {"inputs": [tensor("UP_TO", np.array([2]))]})
    assert int(answers[0][0].as_numpy("PRIME")[0]) == 2


@pytest.mark.parametrize("model", ["waiting", "waiting_in_line"])
def test_a_call_that_is_cancelled_while_it_waits_never_runs(
    grpc_server: RunningServer, client: Any, tmp_path: Path, model: str
) -> None:
    """The model is called for those before and after it; nothing counts as a failure of its own."""
    go = tmp_path / model
    asked = {"model_name": model, "inputs": [tensor("GO", np.array([str(go).encode()], object), "BYTES")]}
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def ask() -> Any:
        return client.async_infer(**asked, callback=lambda result, error: found.put((result, error)))

    def are_pending(count: int) -> Callable[[], bool]:
        line = f'nv_inference_pending_request_count{{model="{model}",version="1"}} {count:.1f}\n'
        return lambda: line in httpx.get(grpc_server.url + "/metrics").text

    ask()
    until(lambda: go.with_suffix(".began").exists())
    call = ask()
    until(are_pending(1))
    call.cancel()
    assert found.get(timeout=30)[1] is not None
    ask()
    until(are_pending(2))
    go.touch()
    calls = sorted(int(found.get(timeout=30)[0].as_numpy("CALLS")[0]) for _ in range(2))

    assert calls == [1, 2]
    stats = client.get_inference_statistics(model).model_stats[0].inference_stats
    assert (stats.success.count, stats.fail.count) == (2, 0)


def test_the_asyncio_client_infers_and_streams(address: str) -> None:
    """The same answers."""

    async def ask() -> tuple[Any, list[int]]:
        async with triton_aio.InferenceServerClient(address) as client:

            async def requests() -> Any:
                yield {"model_name": "triton_python_decoupled", "inputs": [tensor("UP_TO", np.array([5]))]}

            assert await client.is_server_live()
            result = await client.infer("triton_python", pair(rows=2))
            primes = [int(each.as_numpy("PRIME")[0]) async for each, _ in client.stream_infer(requests())]
            return result.as_numpy("OUTPUT0").shape, primes

    assert asyncio.run(ask()) == ((2, 4), [2, 3, 5])


# ---- the repository --------------------------------------------------------------------------------------------------


def test_models_are_unloaded_and_loaded(client: Any) -> None:
    """An unloaded one is not loaded by a mere request; the index says so."""
    client.load_model("int8")
    client.unload_model("int8")
    assert not client.is_model_ready("int8")
    index = {each.name: each for each in client.get_model_repository_index().models}
    assert (index["int8"].state, index["int8"].reason) == ("UNAVAILABLE", "unloaded")
    status, text = refusal(lambda: client.infer("int8", [tensor("x", np.zeros((1, 3), np.int8))]))
    assert (status, "has no available versions" in text) == ("NOT_FOUND", True)
    client.load_model("int8")
    assert client.is_model_ready("int8")


def test_loads_that_cannot_be_say_why(client: Any) -> None:
    """A name that is not there; a configuration that is none; files, which are code."""
    status, text = refusal(lambda: client.load_model("nope"))
    assert (status, "failed to load 'nope'" in text) == ("INTERNAL", True)
    assert refusal(lambda: client.load_model("int8", config="{"))[0] == "INTERNAL"
    status, text = refusal(lambda: client.load_model("new", config="{}", files={"file:1/model.py": b""}))
    assert (status, "set WHARF_LOAD_FILES" in text) == ("UNIMPLEMENTED", True)


def test_what_is_not_here_is_said(client: Any) -> None:
    """Shared memory of CUDA; that of the system while it is off."""
    assert refusal(client.get_cuda_shared_memory_status)[1].startswith("This server has no shared memory of CUDA")
    for call in (
        client.get_system_shared_memory_status,
        lambda: client.unregister_system_shared_memory("x"),
        lambda: client.register_system_shared_memory("x", "/x", 8),
    ):
        status, text = refusal(call)
        assert (status, text.startswith("shared memory is off on this server")) == ("UNIMPLEMENTED", True)


def test_traces_and_the_log_are_read_and_set(client: Any) -> None:
    """As over HTTP."""
    assert client.update_trace_settings(settings={"trace_rate": "7"}).settings["trace_rate"].value == ["7"]
    assert client.update_trace_settings(settings={"trace_rate": None}) == client.get_trace_settings()
    assert client.update_log_settings({"log_verbose_level": 1}).settings["log_verbose_level"].uint32_param == 1
    assert client.update_log_settings({"log_verbose_level": 0}) == client.get_log_settings()


# ---- the life of the server ------------------------------------------------------------------------------------------


def test_the_repository_wants_the_token_and_inference_does_not(start_server: StartServer) -> None:
    """As over HTTP."""
    server = start_server(WHARF_GRPC_PORT="0", WHARF_ADMIN_TOKEN="s3cret")
    make_fake(server.root, "a")
    with triton.InferenceServerClient(address_of(server)) as client:
        for call in (
            client.get_model_repository_index,
            lambda: client.load_model("a"),
            lambda: client.unload_model("a"),
        ):
            assert refusal(call)[0] == "UNAUTHENTICATED"
        client.load_model("a", headers={"authorization": "Bearer s3cret"})
        assert client.infer("a", one_row())
    assert "s3cret" not in server.log()


def test_a_message_over_the_limit_is_refused(start_server: StartServer) -> None:
    """The server's limit on bodies holds here too."""
    server = start_server(WHARF_GRPC_PORT="0", WHARF_MAX_BODY_BYTES="1000")
    make_fake(server.root, "a")
    with triton.InferenceServerClient(address_of(server)) as client:
        for size in (500, 50_000):
            inputs = [tensor("x", np.zeros((1, size), np.float32))]
            assert refusal(partial(client.infer, "a", inputs))[0] == "RESOURCE_EXHAUSTED"


def test_requests_in_flight_end_before_the_server_does(start_server: StartServer, http_server: str) -> None:
    """And an open stream that asks nothing does not hold it up."""
    server = start_server(WHARF_GRPC_PORT="0", WHARF_HTTP_SERVER=http_server)
    make_fake(server.root, "slow", delay_ms=700)
    found: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton.InferenceServerClient(address_of(server)) as client:
        client.load_model("slow")
        client.start_stream(lambda result, error: None)
        client.async_infer("slow", one_row(), lambda result, error: found.put((result, error)))
        until(lambda: "InFlight 1.0" in server.client.get("/metrics").text)
        assert server.stop() == 0
        assert found.get(timeout=10)[1] is None


def test_a_killed_server_process_listens_again(start_server: StartServer) -> None:
    """On the port of its setting, after the master has brought it back."""
    first = start_server(WHARF_GRPC_PORT="0")
    port = address_of(first).rpartition(":")[2]
    first.stop()
    server = start_server(WHARF_GRPC_PORT=port)
    kill(server)
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        assert client.is_server_live()


def kill(server: RunningServer) -> None:
    """Kill the server process and wait for the next one's gRPC."""
    import os

    os.kill(server.server_pid(), 9)
    until(lambda: server.log().count("event=grpc_listening") == 2)
