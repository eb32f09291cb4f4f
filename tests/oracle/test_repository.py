"""Load, unload, load with another configuration or other files; and what cannot be loaded."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import pytest

from tests.oracle.clients import Input, call, infer
from tests.oracle.conftest import Same
from tests.oracle.servers import REPOSITORY, Target

VECTOR = np.arange(16, dtype=np.float32).reshape(1, 16)
INPUTS = [Input("INPUT0", VECTOR), Input("INPUT1", VECTOR)]


def _tensor(name: str) -> dict[str, Any]:
    return {"name": name, "data_type": "TYPE_FP32", "dims": [16]}


CONFIG = {
    "backend": "python",
    "max_batch_size": 3,
    "input": [_tensor("INPUT0"), _tensor("INPUT1")],
    "output": [_tensor("OUTPUT0"), _tensor("OUTPUT1")],
}
OTHER_CODE = (REPOSITORY / "add_sub/1/model.py").read_text().replace("left + right", "left * right").encode()


def index_of(target: Target, flavour: str, name: str) -> Any:
    """Return what the index says of one model."""
    found = call(target, flavour, "get_model_repository_index")
    entries = found if flavour.startswith("http") else found["models"]
    return [each for each in entries if each["name"] == name]


def unload(target: Target, flavour: str, name: str) -> Any:
    """Unload and wait until the index says so: an unload is answered before it is done."""
    answer = call(target, flavour, "unload_model", name)
    pause = threading.Event()
    for _ in range(300):
        if all(each.get("state", "UNAVAILABLE") == "UNAVAILABLE" for each in index_of(target, flavour, name)):
            return answer
        pause.wait(0.05)
    raise AssertionError(f"{name} was not unloaded within 15 s: {index_of(target, flavour, name)}")


def test_a_model_is_loaded_used_and_unloaded(target: Target, same: Same, flavour: str) -> None:
    """Each step's answer, readiness and the index after it."""
    unload(target, flavour, "spare")
    seen = {"before": infer(target, flavour, "spare", INPUTS), "load": call(target, flavour, "load_model", "spare")}
    seen["ready"] = call(target, flavour, "is_model_ready", "spare")
    seen["index while loaded"] = index_of(target, flavour, "spare")
    seen["infer"] = infer(target, flavour, "spare", INPUTS)
    seen["load again"] = call(target, flavour, "load_model", "spare")
    seen["unload"] = unload(target, flavour, "spare")
    seen["ready after"] = call(target, flavour, "is_model_ready", "spare")
    seen["index after"] = index_of(target, flavour, "spare")
    seen["infer after"] = infer(target, flavour, "spare", INPUTS)
    seen["metadata after"] = call(target, flavour, "get_model_metadata", "spare")
    seen["config after"] = call(target, flavour, "get_model_config", "spare")
    seen["statistics after"] = call(target, flavour, "get_inference_statistics", "spare")
    same(seen)


def test_a_configuration_that_comes_with_the_load_is_used(target: Target, same: Same, flavour: str) -> None:
    """Until the model is loaded without one."""
    seen = {"load": call(target, flavour, "load_model", "spare", config=json.dumps(CONFIG))}
    seen["config"] = call(target, flavour, "get_model_config", "spare")
    seen["too many rows"] = infer(
        target, flavour, "spare", [Input(name, np.repeat(VECTOR, 4, axis=0)) for name in ("INPUT0", "INPUT1")]
    )
    call(target, flavour, "load_model", "spare")
    after = call(target, flavour, "get_model_config", "spare")
    seen["max_batch_size after"] = after.get("config", after).get("max_batch_size")
    unload(target, flavour, "spare")
    same(seen)


def test_files_that_come_with_the_load_are_used(target: Target, same: Same, flavour: str) -> None:
    """The folder in the repository stays as it is: the next load has its own code again."""
    files = {"file:1/model.py": OTHER_CODE}
    seen = {"load": call(target, flavour, "load_model", "spare", config=json.dumps(CONFIG), files=files)}
    seen["infer"] = infer(target, flavour, "spare", INPUTS)
    seen["index"] = index_of(target, flavour, "spare")
    call(target, flavour, "load_model", "spare")
    seen["infer after"] = infer(target, flavour, "spare", INPUTS)
    unload(target, flavour, "spare")
    same(seen)


def test_a_model_may_be_nothing_but_what_comes_with_the_load(target: Target, same: Same, flavour: str) -> None:
    """No folder of that name is in the repository."""
    files = {"file:1/model.py": OTHER_CODE}
    seen = {"load": call(target, flavour, "load_model", "from_nowhere", config=json.dumps(CONFIG), files=files)}
    seen["infer"] = infer(target, flavour, "from_nowhere", INPUTS)
    seen["unload"] = unload(target, flavour, "from_nowhere")
    seen["index"] = index_of(target, flavour, "from_nowhere")
    same(seen)


@pytest.mark.parametrize("files", [{"file:1/model.py": OTHER_CODE}, {"1/model.py": OTHER_CODE}], ids=["file", "bare"])
def test_files_without_a_configuration(target: Target, same: Same, flavour: str, files: dict[str, bytes]) -> None:
    """They need one."""
    same({"load": call(target, flavour, "load_model", "spare", files=files)})


def test_files_may_not_leave_the_folder(target: Target, same: Same, flavour: str) -> None:
    """A path with `..` is refused."""
    files = {"file:../../model.py": OTHER_CODE, "file:1/model.py": OTHER_CODE}
    same({"load": call(target, flavour, "load_model", "escapes", config=json.dumps(CONFIG), files=files)})


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"max_batch_size": "x"}', '{"unknown_field": 1}'])
def test_a_configuration_that_cannot_be_used(target: Target, same: Same, flavour: str, config: str) -> None:
    """It is refused and the model is as it was."""
    call(target, flavour, "load_model", "counted")
    answer = call(target, flavour, "load_model", "counted", config=config)
    same({"load": answer, "ready": call(target, flavour, "is_model_ready", "counted")})


@pytest.mark.parametrize("model", ["nope", "broken_config", "misnamed"])
def test_what_cannot_be_polled(target: Target, same: Same, flavour: str, model: str) -> None:
    """No such folder, a configuration that is none, another name."""
    same({"load": call(target, flavour, "load_model", model), "ready": call(target, flavour, "is_server_ready")})


def test_a_model_that_fails_to_start(target: Target, same: Same, flavour: str) -> None:
    """The reason is in the answer and in the index; the server is not ready until the model is unloaded."""
    seen = {"load": call(target, flavour, "load_model", "fails_to_start")}
    seen["index"] = index_of(target, flavour, "fails_to_start")
    seen["infer"] = infer(target, flavour, "fails_to_start", [Input("IN", np.zeros(1, np.int32))])
    seen["server ready"] = call(target, flavour, "is_server_ready")
    seen["model ready"] = call(target, flavour, "is_model_ready", "fails_to_start")
    seen["unload"] = call(target, flavour, "unload_model", "fails_to_start")
    seen["index after"] = index_of(target, flavour, "fails_to_start")
    seen["server ready after"] = call(target, flavour, "is_server_ready")
    same(seen)


def test_unload_of_what_is_not_there(target: Target, same: Same, flavour: str) -> None:
    """It is no error."""
    seen = {"unknown": call(target, flavour, "unload_model", "nope")}
    seen["with dependents"] = call(target, flavour, "unload_model", "nope", unload_dependents=True)
    same(seen)
