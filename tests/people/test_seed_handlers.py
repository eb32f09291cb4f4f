"""The handlers of the articles that this project began with run in a real server, as they stand there.

The DJL model.py of GPT-J with DeepSpeed, an inference.py of the SageMaker toolkit, and the CIFAR-10 script of Keras;
the heavy libraries behind them are stand-ins, vendored in each model's lib/. And what holds for all of them: siblings
are found, neighbours are not seen, nothing is written beside them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import StartServer
from tests.server import RunningServer
from tests.unit.repository.packs import tar_gz
from tests.waiting import until

GPT_J = """\
from djl_python import Input, Output
import os
import deepspeed
import torch
from transformers import pipeline, AutoModelForCausalLM, AutoTokenizer

predictor = None

def get_model():
    model_name = 'EleutherAI/gpt-j-6B'
    tensor_parallel = int(os.getenv('TENSOR_PARALLEL_DEGREE', '1'))
    local_rank = int(os.getenv('LOCAL_RANK', '0'))
    model = AutoModelForCausalLM.from_pretrained(model_name, revision="float32", torch_dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    
    model = deepspeed.init_inference(model,
                                     mp_size=tensor_parallel,
                                     dtype=model.dtype,
                                     replace_method='auto',
                                     replace_with_kernel_inject=True)
    generator = pipeline(task='text-generation', model=model, tokenizer=tokenizer, device=local_rank)
    return generator


def handle(inputs: Input) -> None:
    global predictor
    if not predictor:
        predictor = get_model()

    if inputs.is_empty():
        # Model server makes an empty call to warmup the model on startup
        return None

    data = inputs.get_as_string()
    result = predictor(data, do_sample=True, min_tokens=200, max_new_tokens=256)
    return Output().add(result)
"""  # noqa: W293  the article's own

TRANSFORMERS = """
class AutoModelForCausalLM:
    def __init__(self, name, dtype):
        self.name, self.dtype, self.degree = name, dtype, 0
    @classmethod
    def from_pretrained(cls, name, revision, torch_dtype):
        return cls(name, torch_dtype)
class AutoTokenizer:
    @classmethod
    def from_pretrained(cls, name):
        return cls()
def pipeline(task, model, tokenizer, device):
    def generate(text, do_sample, min_tokens, max_new_tokens):
        said = f"{text} {model.name} {model.dtype} of {model.degree} on {device}"
        return [{"generated_text": said}]
    return generate
"""

DEEPSPEED = """
def init_inference(model, mp_size, dtype, replace_method, replace_with_kernel_inject):
    model.degree = mp_size
    return model
"""

INFERENCE = """
import json, os
from scaling import FACTOR
from sagemaker_inference import content_types, errors

def model_fn(model_dir):
    with open(os.path.join(model_dir, "weights.json")) as file:
        return json.load(file)

def input_fn(request_body, content_type):
    if content_type != content_types.JSON:
        raise errors.GenericInferenceToolkitError(415, "send JSON")
    return json.loads(request_body)["inputs"]

def predict_fn(data, model):
    return [each * model["weight"] * FACTOR for each in data]

def output_fn(prediction, accept):
    return json.dumps({"predictions": prediction}), accept
"""

CIFAR = """
import argparse, json, os
import numpy as np
from small_keras.layers import Conv, Dense, Network

HEIGHT, WIDTH, DEPTH, NUM_CLASSES = 32, 32, 3, 10

def keras_model_fn(weights):
    return Network([Conv(weights["conv"]), Dense(weights["dense"])])

def model_fn(model_dir):
    with np.load(os.path.join(model_dir, "cifar10.npz")) as weights:
        return keras_model_fn(weights)

def input_fn(request_body, request_content_type):
    image = np.array(json.loads(request_body), dtype=np.float32) / 255
    if image.shape[1:] != (HEIGHT, WIDTH, DEPTH):
        raise ValueError(f"the image has shape {image.shape}")
    return image

def predict_fn(image, model):
    return model.predict(image)

def output_fn(prediction, accept):
    return json.dumps({"predictions": prediction.tolist()}), accept

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", required=True)
    raise SystemExit(parser.parse_args())
"""

KERAS = """
import numpy as np
class Conv:
    def __init__(self, kernel):
        self.kernel = kernel
    def __call__(self, images):
        windows = np.lib.stride_tricks.sliding_window_view(images, self.kernel.shape[:2], axis=(1, 2))
        return np.maximum(np.einsum("nhwcij,ijco->nhwo", windows, self.kernel), 0)
class Dense:
    def __init__(self, weights):
        self.weights = weights
    def __call__(self, images):
        scores = images.mean(axis=(1, 2)) @ self.weights
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
class Network:
    def __init__(self, layers):
        self.layers = layers
    def predict(self, images):
        for layer in self.layers:
            images = layer(images)
        return images
"""


def start(start_server: StartServer, **env: str) -> RunningServer:
    """Start a server whose zygote has numpy alone."""
    return start_server(WHARF_PRELOAD="numpy", **env)


def load(server: RunningServer, name: str) -> None:
    """POST /models for what lies in the model root under this name."""
    answer = server.client.post("/models", json={"model_name": name, "url": f"{server.root_inside}/{name}"})
    assert answer.status_code == 200, answer.text


def write(folder: Path, files: dict[str, str]) -> Path:
    """Write the files of a model."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def pack(path: Path, files: dict[str, str]) -> None:
    """Write the files of a model as a tar.gz."""
    path.write_bytes(tar_gz({name: text.encode() for name, text in files.items()}))


def inference(weight: int, factor: int) -> dict[str, str]:
    """Return the files of an inference.py with a sibling in code/lib/."""
    return {
        "weights.json": json.dumps({"weight": weight}),
        "code/inference.py": INFERENCE,
        "code/lib/scaling/__init__.py": "from .factor import FACTOR\n",
        "code/lib/scaling/factor.py": f"FACTOR = {factor}\n",
    }


def gpt_j() -> dict[str, str]:
    """Return the files of the article's archive, and the stand-ins."""
    return {
        "gpt-j/serving.properties": "engine=Rubikon\n",
        "gpt-j/model.py": GPT_J,
        "gpt-j/lib/transformers.py": TRANSFORMERS,
        "gpt-j/lib/deepspeed.py": DEEPSPEED,
    }


@pytest.mark.torch
@pytest.mark.parametrize("degree", [{}, {"TENSOR_PARALLEL_DEGREE": "1"}], ids=["unset", "1"])
def test_the_djl_handler_of_gpt_j_runs(start_server: StartServer, degree: dict[str, str]) -> None:
    """engine=Rubikon, one nested folder, the warm-up call, and a list that becomes JSON."""
    server = start(start_server, **degree)
    pack(server.root / "gpt-j.tar.gz", gpt_j())
    load(server, "gpt-j.tar.gz")
    text = {"Content-Type": "text/plain"}
    answer = server.client.post("/models/gpt-j.tar.gz/invoke", content="DeepSpeed is", headers=text)
    assert answer.json() == [{"generated_text": "DeepSpeed is EleutherAI/gpt-j-6B torch.float32 of 1 on 0"}]
    assert "Content-Type" not in answer.headers  # as DJL: the handler sets none


@pytest.mark.torch
def test_the_djl_handler_runs_as_a_group_of_two_ranks(start_server: StartServer) -> None:
    """As the article deploys it, TENSOR_PARALLEL_DEGREE=2: rank 0 of two answers."""
    server = start(start_server, TENSOR_PARALLEL_DEGREE="2")
    pack(server.root / "gpt-j.tar.gz", gpt_j())
    load(server, "gpt-j.tar.gz")
    text = {"Content-Type": "text/plain"}
    answer = server.client.post("/models/gpt-j.tar.gz/invoke", content="DeepSpeed is", headers=text)
    assert answer.json() == [{"generated_text": "DeepSpeed is EleutherAI/gpt-j-6B torch.float32 of 2 on 0"}]


def test_an_inference_py_in_an_archive_runs_with_its_library(start_server: StartServer) -> None:
    """code/inference.py and code/lib/ in a tar.gz; its own 415 is the client's."""
    server = start(start_server)
    pack(server.root / "scaled.tar.gz", inference(2, 10))
    load(server, "scaled.tar.gz")
    answer = server.client.post("/models/scaled.tar.gz/invoke", json={"inputs": [1, 2]})
    assert (answer.status_code, answer.json()) == (200, {"predictions": [20, 40]})
    refused = server.client.post("/models/scaled.tar.gz/invoke", content="1", headers={"Content-Type": "text/csv"})
    assert (refused.status_code, "send JSON" in refused.text) == (415, True)


def test_the_cifar_script_that_sagemaker_program_names_answers_a_picture(
    start_server: StartServer, tmp_path: Path
) -> None:
    """The article's endpoint: one model, its variables, a picture of [1, 32, 32, 3], ten probabilities."""
    folder = tmp_path / "opt-ml" / "model"
    files = {"cifar10_keras_main.py": CIFAR, "lib/small_keras/layers.py": KERAS, "lib/small_keras/__init__.py": ""}
    write(folder / "code", files)
    chance = np.random.default_rng(10)
    np.savez(folder / "cifar10.npz", conv=chance.normal(size=(3, 3, 3, 8)), dense=chance.normal(size=(8, 10)))
    server = start(
        start_server,
        SAGEMAKER_PROGRAM="cifar10_keras_main.py",
        SAGEMAKER_SUBMIT_DIRECTORY=str(folder / "code"),
        SAGEMAKER_CONTAINER_LOG_LEVEL="20",
        SAGEMAKER_REGION="us-east-1",
    )
    until(lambda: server.client.get("/ping").status_code == 200)
    picture = chance.integers(0, 256, (1, 32, 32, 3)).tolist()
    answer = server.client.post("/invocations", json=picture, headers={"Accept": "application/json"})
    (scores,) = answer.json()["predictions"]
    assert (len(scores), answer.headers["Content-Type"]) == (10, "application/json")
    assert sum(scores) == pytest.approx(1)


def test_two_models_with_modules_of_one_name_do_not_see_each_other(start_server: StartServer) -> None:
    """Both have inference.py and lib/scaling; asked in turn, each answers with its own."""
    server = start(start_server)
    for name, factor in (("ten", 10), ("hundred", 100)):
        write(server.root / name, inference(1, factor))
        load(server, name)
    for name, wanted in (("ten", 10), ("hundred", 100)) * 3:
        answer = server.client.post(f"/models/{name}/invoke", json={"inputs": [1]})
        assert answer.json() == {"predictions": [wanted]}


def tree(folder: Path) -> dict[str, str]:
    """Return what lies below a folder: each path with its time stamp and the digest of its bytes."""
    seen = {}
    for path in sorted([folder, *folder.rglob("*")]):
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        seen[str(path.relative_to(folder))] = f"{digest} {path.stat().st_mtime_ns}"
    return seen


def read_only(folder: Path, script: Path) -> dict[str, str]:
    """Return how to start a server that sees `folder` read-only: nothing where this machine mounts none for us."""
    script.write_text(f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}" && exec "$@"\n')
    wrap = ["unshare", "--mount", "--map-root-user", "sh", str(script)]
    if shutil.which("unshare") is None or subprocess.run([*wrap, "true"], capture_output=True, check=False).returncode:
        return {}
    return {"wrap": " ".join(wrap)}


def test_nothing_is_written_below_the_model_root(start_server: StartServer, tmp_path: Path) -> None:
    """No bytecode, no logs, no caches; and a repository that cannot be written to serves."""
    root = tmp_path / "models"
    pack(root / "packed.tar.gz", inference(1, 3))
    write(root / "folder", inference(1, 5))
    write(root / "djl", {"model.py": "from djl_python import Output\ndef handle(inputs): return Output().add('yes')\n"})
    write(root / "djl", {"serving.properties": "engine=Python\n"})
    before = tree(root)
    server = start(start_server, **read_only(root, tmp_path / "read_only.sh"))
    for name, wanted in (("packed.tar.gz", [3]), ("folder", [5])):
        assert server.client.post(f"/models/{name}/invoke", json={"inputs": [1]}).json() == {"predictions": wanted}
    assert server.client.post("/models/djl/invoke", content=b"x").text == "yes"
    assert server.stop() == 0
    assert tree(root) == before


def test_requirements_that_are_not_installed_are_named_in_the_log(start_server: StartServer) -> None:
    """The model runs with what there is; the log says which package it wants and how to have it."""
    server = start(start_server)
    write(server.root / "wants", inference(1, 1) | {"code/requirements.txt": "numpy\nno-such-thing==1.0\n"})
    load(server, "wants")
    assert server.client.post("/models/wants/invoke", json={"inputs": [7]}).json() == {"predictions": [7]}
    (warning,) = [each for each in server.log().splitlines() if "event=requirements_not_installed" in each]
    assert "model=wants" in warning
    assert "no-such-thing==1.0" in warning
    assert "numpy" not in warning
    assert "WHARF_INSTALL_REQUIREMENTS" in warning
