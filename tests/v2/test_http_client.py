"""tritonclient.http and its asyncio twin, unmodified: every method that this server has, under both HTTP servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from serving.tensors import DTYPES
from tests.server import RunningServer
from tests.v2.models import make_models

triton = pytest.importorskip("tritonclient.http")
aio = pytest.importorskip("tritonclient.http.aio")
utils = pytest.importorskip("tritonclient.utils")

PAIR = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture(scope="module", params=["granian", "gunicorn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of all models."""
    folder = tmp_path_factory.mktemp(str(request.param))
    root = folder / "models"
    root.mkdir()
    make_models(root)
    with RunningServer(root, folder / "server.log", {"WHARF_HTTP_SERVER": str(request.param)}) as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Any]:
    """A client of Triton's, with connections for some requests at once."""
    with triton.InferenceServerClient(_host(server), concurrency=4) as client:
        yield client


def _host(server: RunningServer) -> str:
    return server.url.removeprefix("http://")


def tensor(name: str, array: Any, datatype: str = "FP32", *, binary: bool = True) -> Any:
    """An input as the client makes it."""
    made = triton.InferInput(name, list(array.shape), datatype)
    return made.set_data_from_numpy(array, binary_data=binary)


def pair(*, binary: bool = True) -> list[Any]:
    """The inputs of the template."""
    return [tensor(name, PAIR, binary=binary) for name in ("INPUT0", "INPUT1")]


def refused(call: Any, *of: Any, **named: Any) -> tuple[str, str]:
    """Status and words of a call that fails."""
    with pytest.raises(utils.InferenceServerException) as caught:
        call(*of, **named)
    return str(caught.value.status()), str(caught.value.message())


# ---- the server and its models ---------------------------------------------------------------------------------------


def test_the_server_lives_and_says_what_it_is(client: Any) -> None:
    """Health, metadata, index."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert "statistics" in client.get_server_metadata()["extensions"]
    assert {"fake", "identity", "triton_python"} <= {each["name"] for each in client.get_model_repository_index()}


def test_a_model_says_what_it_is(client: Any) -> None:
    """Metadata and configuration, with a version or without."""
    for version in ("", "1"):
        assert client.get_model_metadata("triton_python", version)["inputs"] == [
            {"name": name, "datatype": "FP32", "shape": [-1, 4]} for name in ("INPUT0", "INPUT1")
        ]
        config = client.get_model_config("triton_python", version)
        assert (config["backend"], [each["name"] for each in config["input"]]) == ("python", ["INPUT0", "INPUT1"])
        assert client.is_model_ready("triton_python", version)
    assert not client.is_model_ready("nope")
    assert refused(client.get_model_metadata, "nope") == ("404", "Request for unknown model: 'nope' is not found")


def test_models_come_and_go(client: Any) -> None:
    """Load, unload, load again; a load that fails says why."""
    client.load_model("fake")
    assert {"name": "fake", "version": "1", "state": "READY"} in client.get_model_repository_index()
    client.unload_model("fake", unload_dependents=True)
    assert not client.is_model_ready("fake")
    assert refused(client.infer, "fake", [tensor("x", PAIR)]) == (
        "404",
        "Request for unknown model: 'fake' has no available versions",
    )
    client.load_model("fake")
    assert client.is_model_ready("fake")
    assert "failed to poll from model repository" in refused(client.load_model, "nope")[1]
    assert "no good" in refused(client.load_model, "bad")[1]
    assert refused(client.load_model, "fake", config="{}")[0] == "500"


def test_a_load_brings_a_configuration_and_no_code(client: Any) -> None:
    """Files want a setting; the next load has the model's own configuration again."""
    own = client.get_model_config("triton_python")
    client.load_model("triton_python", config=json.dumps(own | {"max_batch_size": 3}))
    assert client.get_model_config("triton_python")["max_batch_size"] == 3
    client.load_model("triton_python")
    assert client.get_model_config("triton_python")["max_batch_size"] == own["max_batch_size"]
    status, text = refused(client.load_model, "new", config="{}", files={"file:1/model.py": b""})
    assert (status, "set WHARF_LOAD_FILES" in text) == ("501", True)


def test_statistics_count_what_was_inferred(client: Any) -> None:
    """Of one model, of a version, of all."""
    client.infer("fake", [tensor("x", PAIR)])
    (before,) = client.get_inference_statistics("fake")["model_stats"]
    client.infer("fake", [tensor("x", np.repeat(PAIR, 3, 0))])
    (after,) = client.get_inference_statistics("fake", "1")["model_stats"]

    assert after["execution_count"] - before["execution_count"] == 1
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1
    assert "fake" in {each["name"] for each in client.get_inference_statistics()["model_stats"]}


@pytest.mark.parametrize(
    "method",
    ["get_system_shared_memory_status", "unregister_system_shared_memory", "get_cuda_shared_memory_status"],
)
def test_what_is_not_served_is_501_in_words(client: Any, method: str) -> None:
    """The client shows them; system shared memory is off until somebody switches it on."""
    status, words = refused(getattr(client, method))

    assert (status, "shared memory is" in words) == ("501", True)


def test_traces_are_switched_on_and_off(client: Any) -> None:
    """For all models or one; what is read back is what was set."""
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    changed = client.update_trace_settings("fake", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert (changed["trace_level"], changed["trace_rate"]) == (["TIMESTAMPS"], "1")
    client.infer("fake", [tensor("x", PAIR)])
    assert client.update_trace_settings("fake", {"trace_level": None, "trace_rate": None})["trace_level"] == ["OFF"]


def test_levels_of_the_log_are_read_and_set(client: Any) -> None:
    """A file is not a client's to choose."""
    assert client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    assert client.update_log_settings({"log_verbose_level": 0}) == client.get_log_settings()
    assert refused(client.update_log_settings, {"log_file": "/tmp/x"})[0] == "501"


def test_a_path_before_the_routes_is_404_in_words(server: RunningServer) -> None:
    """The client turns it into an exception instead of choking on it."""
    with triton.InferenceServerClient(f"{_host(server)}/some/base") as client:
        assert not client.is_server_live()
        status, words = refused(client.get_server_metadata)

    assert (status, "/some/base/v2" in words) == ("404", True)


# ---- infer -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_binary", [True, False])
def test_inputs_and_outputs_in_binary_and_in_json(client: Any, is_binary: bool) -> None:
    """In the model's order."""
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("OUTPUT1", "OUTPUT0")]
    result = client.infer("triton_python", pair(binary=not is_binary), outputs=outputs, request_id="7")

    assert [each["name"] for each in result.get_response()["outputs"]] == ["OUTPUT0", "OUTPUT1"]
    assert result.as_numpy("OUTPUT0").tolist() == [[2, 4, 6, 8]]
    assert result.as_numpy("OUTPUT1").tolist() == [[0, 0, 0, 0]]
    assert (result.get_response()["id"], result.get_response()["model_name"]) == ("7", "triton_python")


def test_mixed_outputs_and_none_asked_for(client: Any) -> None:
    """Without outputs the client wants all of them in binary."""
    outputs = [triton.InferRequestedOutput("OUTPUT0"), triton.InferRequestedOutput("OUTPUT1", binary_data=False)]
    for result in (client.infer("triton_python", pair(), outputs=outputs), client.infer("triton_python", pair())):
        assert result.as_numpy("OUTPUT0").tolist() == [[2, 4, 6, 8]]
        assert result.as_numpy("OUTPUT1").tolist() == [[0, 0, 0, 0]]
    assert all("binary_data_size" in each["parameters"] for each in result.get_response()["outputs"])


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_goes_in_and_comes_out(client: Any, datatype: str) -> None:
    """In binary; in JSON too where the client writes it."""
    kind = utils.triton_to_np_dtype(datatype)
    array = np.array([b"", "ü".encode(), b"\x00\xff"], object) if datatype == "BYTES" else np.array([0, 1, 1], kind)
    for is_binary in (True, False)[: 1 if datatype in ("FP16", "BYTES") else 2]:
        given = tensor(f"IN_{datatype}", array, datatype, binary=is_binary)
        wanted = [triton.InferRequestedOutput(f"OUT_{datatype}", binary_data=is_binary)]
        found = client.infer("identity", [given], outputs=wanted).as_numpy(f"OUT_{datatype}")
        assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


def test_ids_parameters_and_sequences_reach_the_model(client: Any) -> None:
    """As the client gives them."""
    result = client.infer(
        "identity",
        [tensor("IN_FP32", PAIR[0])],
        request_id="r1",
        sequence_id=7,
        sequence_start=True,
        priority=1,
        timeout=10_000_000,
        parameters={"own": 1.5, "flag": True, "text": "a"},
    )

    assert json.loads(result.as_numpy("SAID")[0]) == {
        "id": "r1",
        "parameters": {"own": 1.5, "flag": True, "text": "a"},
        "sequence": [7, 1],
    }


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client: Any, algorithm: str) -> None:
    """The client unpacks what comes."""
    result = client.infer(
        "triton_python",
        pair(),
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )

    assert result.as_numpy("OUTPUT0").tolist() == [[2, 4, 6, 8]]


def test_the_best_classes(client: Any) -> None:
    """Triton's classification extension."""
    wanted = [triton.InferRequestedOutput("OUTPUT0", class_count=2)]

    assert client.infer("triton_python", pair(), outputs=wanted).as_numpy("OUTPUT0").tolist() == [
        [b"8.000000:3", b"6.000000:2"]
    ]


def test_many_at_once(client: Any) -> None:
    """async_infer, over kept connections."""
    asked = [client.async_infer("triton_python", pair()) for _ in range(20)]

    assert [each.get_result().as_numpy("OUTPUT0").tolist() for each in asked] == [[[2, 4, 6, 8]]] * 20


def test_names_with_slashes_and_signs(client: Any) -> None:
    """The client percent-encodes them, once."""
    name = "sub/id entity%41"

    assert client.is_model_ready(name)
    assert client.get_model_metadata(name)["name"] == name
    assert client.infer(name, [tensor("IN_FP32", PAIR[0])]).get_response()["model_name"] == name


def test_errors_are_tritons(client: Any) -> None:
    """Statuses and words."""
    inputs = pair()
    assert refused(client.infer, "nope", inputs) == ("404", "Request for unknown model: 'nope' is not found")
    assert refused(client.infer, "triton_python", inputs, model_version="9") == (
        "404",
        "Request for unknown model: 'triton_python' version 9 is not found",
    )
    assert "but missing required input(s) ['INPUT1']" in refused(client.infer, "triton_python", inputs[:1])[1]
    failed = refused(client.infer, "identity", [tensor("IN_FP32", PAIR[0])], parameters={"raise": True})
    assert (failed[0], "ValueError: told to" in failed[1]) == ("500", True)
    up_to = [tensor("UP_TO", np.array([10]), "INT64")]
    assert refused(client.infer, "triton_python_decoupled", up_to)[0] == "501"


def test_bodies_made_and_read_apart_go_through_sagemakers_route(server: RunningServer) -> None:
    """What AWS's notebooks do."""
    vendor = "application/vnd.sagemaker-triton.binary+json;json-header-size="
    body, size = triton.InferenceServerClient.generate_request_body(pair())
    answer = server.client.post(
        "/models/triton_python/invoke", content=body, headers={"Content-Type": f"{vendor}{size}"}
    )
    end = int(answer.headers["content-type"].removeprefix(vendor))
    result = triton.InferenceServerClient.parse_response_body(answer.content, header_length=end)

    assert result.as_numpy("OUTPUT0").tolist() == [[2, 4, 6, 8]]


# ---- asyncio ---------------------------------------------------------------------------------------------------------


def test_the_asyncio_client_does_the_same(server: RunningServer) -> None:
    """Health, metadata, statistics, repository, infer with and without compression."""

    async def talk() -> list[Any]:
        async with aio.InferenceServerClient(_host(server)) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("triton_python")
            assert (await client.get_model_metadata("triton_python"))["name"] == "triton_python"
            assert (await client.get_model_config("triton_python"))["backend"] == "python"
            assert await client.get_model_repository_index()
            await client.load_model("fake")
            await client.unload_model("fake")
            await client.load_model("fake")
            assert (await client.get_inference_statistics("fake"))["model_stats"]
            asked = [client.infer("triton_python", pair()) for _ in range(8)]
            packed = client.infer("triton_python", pair(), request_compression_algorithm="gzip")
            return list(await asyncio.gather(*asked, packed))

    assert [each.as_numpy("OUTPUT0").tolist() for each in asyncio.run(talk())] == [[[2, 4, 6, 8]]] * 9


# ---- below the client ------------------------------------------------------------------------------------------------


def test_a_body_in_chunks_is_read_like_any_other(server: RunningServer) -> None:
    """No Content-Length."""
    document = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    text = json.dumps(document).encode()
    answer = server.client.post("/v2/models/fake/infer", content=iter([text[:9], text[9:]]))

    assert answer.json()["outputs"][0]["data"] == [4, 8, 12, 16]


def test_generate_streams_the_answers_of_a_decoupled_model(server: RunningServer) -> None:
    """An event each, as they come."""
    with server.client.stream("POST", "/v2/models/triton_python_decoupled/generate_stream", json={"UP_TO": 10}) as got:
        events = [json.loads(line[6:]) for line in got.iter_lines() if line]

    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [each["PRIME"] for each in events] == [2, 3, 5, 7]


def test_clients_that_leave_a_stream_do_no_harm(server: RunningServer) -> None:
    """Eight at once; the ninth is served."""

    def leave(_: int) -> None:
        route = f"{server.url}/v2/models/triton_python_decoupled/generate_stream"
        with httpx.Client(timeout=60) as own, own.stream("POST", route, json={"UP_TO": 200_000}) as got:
            next(got.iter_lines())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(leave, range(8)))
    answer = server.client.post("/v2/models/triton_python_decoupled/generate_stream", json={"UP_TO": 2})
    assert '"PRIME":2' in answer.text


def test_the_log_has_no_error_of_ours(server: RunningServer) -> None:
    """After everything above."""
    assert "internal_error" not in server.log()
