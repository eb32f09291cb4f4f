"""Health, metadata, configuration, index, statistics: what a client asks before it infers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.oracle.clients import Input, call, infer
from tests.oracle.conftest import Same
from tests.oracle.servers import Target

MODELS = ["add_sub", "every_type", "labelled", "repeat", "unbatched", "words", "nope"]
VECTOR = np.arange(16, dtype=np.float32).reshape(1, 16)


@pytest.mark.parametrize("method", ["is_server_live", "is_server_ready"])
def test_server_health(target: Target, same: Same, flavour: str, method: str) -> None:
    """A server whose models are all ready says that it is."""
    same(call(target, flavour, method))


@pytest.mark.parametrize("model", ["add_sub", "spare", "nope"])
@pytest.mark.parametrize("version", ["", "1", "9"])
def test_model_ready(target: Target, same: Same, flavour: str, model: str, version: str) -> None:
    """Loaded, never loaded and unknown models, in versions that are and are not."""
    same(call(target, flavour, "is_model_ready", model, version))


def test_server_metadata(target: Target, same: Same, flavour: str) -> None:
    """Name, version and extensions."""
    same({"metadata": call(target, flavour, "get_server_metadata")})


@pytest.mark.parametrize("model", MODELS)
def test_model_metadata(target: Target, same: Same, flavour: str, model: str) -> None:
    """Inputs and outputs with the free batch dimension in front."""
    same(call(target, flavour, "get_model_metadata", model))


@pytest.mark.parametrize("version", ["1", "9", "x"])
def test_model_metadata_of_a_version(target: Target, same: Same, flavour: str, version: str) -> None:
    """One that is, one that is not, one that is no number."""
    same(call(target, flavour, "get_model_metadata", "add_sub", version))


@pytest.mark.parametrize("model", MODELS)
def test_model_config(target: Target, same: Same, flavour: str, model: str) -> None:
    """The whole configuration, with what the server filled in."""
    same(call(target, flavour, "get_model_config", model))


def test_repository_index(target: Target, same: Same, flavour: str) -> None:
    """A loaded model, one that never was, one that cannot be."""
    found = call(target, flavour, "get_model_repository_index")
    entries = found if flavour.startswith("http") else found["models"]
    same([each for each in entries if each["name"] in ("add_sub", "broken_config", "misnamed")])


@pytest.mark.parametrize("method", ["get_inference_statistics"])
@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("add_sub", "9")])
def test_statistics_of_what_is_not_there(
    target: Target, same: Same, flavour: str, method: str, model: str, version: str
) -> None:
    """An unknown model, an unknown version."""
    same(call(target, flavour, method, model, version))


def test_statistics_count_requests_and_rows(target: Target, same: Same, flavour: str) -> None:
    """A success of one row, one of three, and a failure, since the model was loaded."""
    call(target, flavour, "load_model", "counted")
    before = _numbers(call(target, flavour, "get_inference_statistics", "counted"))
    infer(target, flavour, "counted", [Input("INPUT0", VECTOR), Input("INPUT1", VECTOR)])
    three = np.repeat(VECTOR, 3, axis=0)
    infer(target, flavour, "counted", [Input("INPUT0", three), Input("INPUT1", three)])
    infer(target, flavour, "counted", [Input("INPUT0", VECTOR)])
    after = call(target, flavour, "get_inference_statistics", "counted", "1")
    same({"counted": _minus(_numbers(after), before), "shape": _shape(after)})


def test_statistics_of_all_models(target: Target, same: Same, flavour: str) -> None:
    """Without a name it is every model that is loaded."""
    found = call(target, flavour, "get_inference_statistics")
    same([each["name"] for each in found["model_stats"] if each["name"] in ("add_sub", "labelled", "nope")])


def _numbers(found: dict[str, Any]) -> dict[str, int]:
    stats = found["model_stats"][0]
    flat = {key: int(stats.get(key, 0)) for key in ("inference_count", "execution_count")}
    for key, each in stats.get("inference_stats", {}).items():
        flat[key] = int(each.get("count", 0))
    for each in stats.get("batch_stats", []):
        flat[f"batch {each['batch_size']}"] = int(each["compute_infer"].get("count", 0))
    return flat


def _minus(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {key: value - before.get(key, 0) for key, value in after.items()}


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items() if key != "ns"}
    return [_shape(each) for each in value] if isinstance(value, list) else type(value).__name__
