"""DJL handlers in the shapes that people write them, through a real server: alone, and with batching switched on.

Each is a shape counted in public repositories (the reference's list), written anew. With `batch_size=4` four clients
ask at once, and each must get its own answer, whether or not the handler has heard of batches.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.workers.compat.djl_python.np_util import from_nd_list, to_nd_list
from tests.server import RunningServer
from tests.unit.repository.written import write

CLIENTS = 4
HEAD = "from djl_python import Input, Output\n"
JSON, TEXT = "application/json", "text/plain"


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's code, what client `number` sends, and the value that it wants back.

    `knows_batches` says that several requests stay one call; it is None of shapes that never are one.
    """

    code: str
    send: Callable[[int], bytes]
    want: Callable[[int], Any]
    kind: str = JSON
    knows_batches: bool | None = False
    properties: str = "option.model_id=tiny\noption.tensor_parallel_degree=1"
    files: dict[str, str] = field(default_factory=dict)
    read: Callable[[httpx.Response], Any] = httpx.Response.json


def prompt(number: int) -> bytes:
    """Return a JSON body as text generators take it."""
    return json.dumps({"prompt": f"say {number}", "inputs": [number, number + 1]}).encode()


def png(number: int) -> bytes:
    """Return an image as wide as the number."""
    image = pytest.importorskip("PIL.Image")
    memory = io.BytesIO()
    image.new("RGB", (number + 1, 2)).save(memory, "PNG")
    return memory.getvalue()


INIT_FIRST = """
predictor = None

def get_model(properties):
    name, degree = properties["model_id"], properties["tensor_parallel_degree"]
    assert degree + 0 == 1  # an integer: mp_size=properties["tensor_parallel_degree"]
    device_id = properties["device_id"]
    device = "cpu" if device_id == "-1" else "cuda:" + device_id
    return lambda text: [{"generated_text": f"{text} by {name} on {device}"}]

def handle(inputs: Input) -> None:
    global predictor
    if not predictor:
        predictor = get_model(inputs.get_properties())
    if inputs.is_empty():
        return None
    return Output().add(predictor(inputs.get_as_string()))
"""

SERVICE = """
class Service(object):
    def __init__(self):
        self.initialized = False

    def initialize(self, properties: dict):
        self.model_id = properties.get("model_id")
        self.initialized = True

    def inference(self, inputs):
        try:
            data = inputs.get_as_json()
            return Output().add_as_json({"outputs": [self.model_id, data["prompt"]]})
        except Exception as e:
            return Output().error(str(e))

_service = Service()

def handle(inputs: Input):
    if not _service.initialized:
        _service.initialize(inputs.get_properties())
    if inputs.is_empty():
        return Output()
    return _service.inference(inputs)
"""

BY_INDEX = """
calls = 0

def handle(inputs):
    global calls
    if inputs.is_empty():
        return None
    outputs = Output()
    calls += 1
    for i, item in enumerate(inputs.get_batches()):
        result = [item.get_as_json()["prompt"]]
        if inputs.is_batch():
            outputs.add_as_json(result, batch_index=i)
        else:
            outputs.add_as_json(result)
    return outputs
"""

BY_KEY = """
from djl_python.encode_decode import decode, encode

def handle(inputs):
    if inputs.is_empty():
        return None
    outputs, content = Output(), inputs.get_content()
    batch = inputs.get_batches()
    results = [[decode(item, item.get_property("Content-Type"))["prompt"]] for item in batch]
    for i, result in enumerate(results):
        outputs.add(result, key=content.key_at(i))
    return outputs
"""

ENCODED = """
from djl_python.inputs import Input
from djl_python.outputs import Output
from djl_python.encode_decode import encode, decode

def handle(inputs):
    if inputs.is_empty():
        return None
    outputs = Output()
    for i, item in enumerate(inputs.get_batches()):
        data = decode(item, item.get_property("Content-Type"))
        encode(outputs, [sum(data["inputs"])], item.get_property("Accept"),
               key=inputs.get_content().key_at(i) if inputs.is_batch() else None)
    return outputs
"""

DECORATED = """
from djl_python.input_parser import input_formatter, init_handler, prediction_handler
from djl_python.output_formatter import output_formatter

@init_handler
def load_model(model_dir):
    return 10

@input_formatter
def parse(inputs, **kwargs):
    return inputs.get_as_json()["inputs"]

@prediction_handler
def predict(x, model, **kwargs):
    return [each * model for each in x]

@output_formatter
def form(prediction):
    return {"scaled": prediction}
"""

SAGEMAKER = """
import json, os

def model_fn(model_dir):
    return len(os.listdir(model_dir))

def input_fn(request_body, content_type):
    return json.loads(request_body)["inputs"]

def predict_fn(data, model):
    return [each + (model > 0) for each in data]

def output_fn(prediction, accept):
    return json.dumps({"predictions": prediction})
"""

FILES = """
import os, subprocess, sys
from trainer import Trainer
from parts.names import NAME

said = subprocess.run([sys.executable, "-c", "print('installed')"], capture_output=True, text=True).stdout.strip()
weights = [float(line) for line in open("weights.txt")]
rank = int(os.getenv("LOCAL_RANK", "0"))

def handle(inputs):
    if inputs.is_empty():
        return None
    total = sum(inputs.get_as_json()["inputs"]) * weights[0]
    return Output().add_as_json({"total": Trainer(total).value, "name": NAME, "said": said, "rank": rank})
"""

STREAMED = """
def words(text):
    for each in text.split():
        yield each

def handle(inputs: Input):
    if inputs.is_empty():
        return None
    data = inputs.get_as_json()
    return Output().add_property("content-type", "application/jsonlines").add_stream_content(words(data["prompt"]))
"""

FAILING = """
def handle(inputs):
    if inputs.is_empty():
        return None
    try:
        prompt = inputs.get_as_json()["question"]
    except KeyError as e:
        return Output(code=500, message="no " + str(e))
"""

UNCAUGHT = """
def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add(inputs.get_as_json()["question"])
"""

ERROR = """
import logging

def handle(inputs):
    outputs = Output()
    if inputs.is_empty():
        return outputs
    try:
        outputs.add(inputs.get_as_json()["prompt"] / 0)
    except Exception as e:
        logging.exception("inference failed")
        outputs = Output().error(str(e))
    return outputs
"""

TABLE = """
def handle(inputs):
    if inputs.is_empty():
        return None
    rows = inputs.get_data() if inputs.get_property("Content-Type") != "text/csv" else inputs.get_as_csv()
    return Output().add_as_json([{k: float(v) for k, v in row.items()} for row in rows])
"""

ARRAYS = """
import numpy as np

def handle(inputs: Input) -> Output:
    if inputs.is_empty():
        return None
    outputs = Output()
    for i, item in enumerate(inputs.get_batches()):
        array = item.get_as_numpy()[0]
        outputs.add_as_numpy([array * 2], batch_index=i if inputs.is_batch() else None)
    outputs.add_property("content-type", "tensor/ndlist")
    return outputs
"""

IMAGE = """
def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add_as_json({"width": inputs.get_as_image().size[0]})
"""

MANUAL = """
def handle(inputs):
    if inputs.content.size() == 0:
        return None
    pairs = inputs.get_content()
    data = {key: bytes(value).decode() for key, value in zip(pairs.get_keys(), pairs.get_values())}
    out = Output()
    out.set_code(201).set_message("made").add_property("X-Model", inputs.properties["model_dir"].rpartition("/")[2])
    return out.add_as_json(sorted(data.values()))
"""

FINALIZED = """
opened = []

def close(what):
    opened.remove(what)

def handle(inputs):
    if inputs.is_empty():
        return None
    what = inputs.get_as_bytes()
    opened.append(what)
    return Output().add(what).finalize(close, what)
"""

ASYNC = """
import asyncio

async def handle(inputs):
    if inputs.is_empty():
        return None
    await asyncio.sleep(0)
    return Output().add_as_json({"generated_text": inputs.get_as_json()["prompt"]})
"""

BENT_TEXT = """
from djl_python.request_io import TextInput
from djl_python.input_parser import input_formatter

@input_formatter
def custom(input_item: Input, **kwargs) -> TextInput:
    return TextInput(request_id=1, input_text=input_item.get_as_json()["prompt"])

def handle(inputs):
    return None if inputs.is_empty() else Output().add_as_json(custom(inputs).input_text)
"""

SHAPES = {
    "the model is made before the empty call is told apart": Shape(
        *(INIT_FIRST, lambda n: b"say %d" % n),
        *(lambda n: [{"generated_text": f"say {n} by tiny on cpu"}], TEXT),
    ),
    "a class that is initialized once": Shape(SERVICE, prompt, lambda n: {"outputs": ["tiny", f"say {n}"]}),
    "an answer for each index": Shape(BY_INDEX, prompt, lambda n: [f"say {n}"], knows_batches=True),
    "an answer under each key of the content": Shape(BY_KEY, prompt, lambda n: [f"say {n}"], knows_batches=True),
    "encode and decode": Shape(ENCODED, prompt, lambda n: [2 * n + 1], knows_batches=True),
    "decorated functions": Shape(DECORATED, prompt, lambda n: {"scaled": [10 * n, 10 * n + 10]}),
    "SageMaker's functions": Shape(SAGEMAKER, prompt, lambda n: {"predictions": [n + 1, n + 2]}, knows_batches=None),
    "siblings, a file and a subprocess": Shape(
        *(FILES, prompt, lambda n: {"total": 4.0 * n + 2, "name": "part", "said": "installed", "rank": 0}),
        files={
            "weights_txt": "2.0\n",
            "trainer_py": "class Trainer:\n    def __init__(self, value):\n        self.value = value\n",
            "parts__names_py": "NAME = 'part'\n",
        },
    ),
    "a stream": Shape(
        *(STREAMED, prompt, lambda n: ['{"outputs": "say"}', f'{{"outputs": "{n}"}}']),
        read=lambda answer: answer.text.splitlines(),
    ),
    "an Output with a code and a message": Shape(
        *(FAILING, prompt, lambda _: (500, "no 'question'")),
        read=lambda answer: (answer.status_code, answer.json()["message"]),
    ),
    "an exception that nobody caught": Shape(
        *(UNCAUGHT, prompt, lambda _: (424, {"code": 424, "message": "invoke handler failure", "error": "'question'"})),
        read=lambda answer: (answer.status_code, answer.json()),
    ),
    "an error of its own": Shape(
        *(ERROR, prompt, lambda _: (424, "unsupported operand type(s) for /: 'str' and 'int'")),
        read=lambda answer: (answer.status_code, answer.json()["error"]),
    ),
    "rows of CSV": Shape(
        TABLE, lambda n: b"a,b\n%d,2\n3,4\n" % n, lambda n: [{"a": n, "b": 2}, {"a": 3, "b": 4}], "text/csv"
    ),
    "arrays": Shape(
        *(
            ARRAYS,
            lambda n: bytes(to_nd_list(np.arange(3) + n)),
            lambda n: [2 * n, 2 * n + 2, 2 * n + 4],
            "tensor/ndlist",
        ),
        knows_batches=True,
        read=lambda answer: from_nd_list(answer.content)[0].tolist(),
    ),
    "an image": Shape(IMAGE, png, lambda n: {"width": n + 1}, "image/png"),
    "content, code and headers by hand": Shape(
        *(MANUAL, lambda n: b"a=%d&b=x" % n, lambda n: (201, [str(n), "x"]), "application/x-www-form-urlencoded"),
        read=lambda answer: (answer.status_code, answer.json()),
    ),
    "something to do after the answer": Shape(
        *(FINALIZED, lambda n: b"%d" % n, lambda n: n),
    ),
    "a coroutine": Shape(ASYNC, prompt, lambda n: {"generated_text": f"say {n}"}),
    "a formatter that the handler calls itself": Shape(BENT_TEXT, prompt, lambda n: f"say {n}"),
}


def lay(root: Path, name: str, shape: Shape, more: str = "") -> None:
    """Write a model."""
    text = f"engine=Python\n{shape.properties}\n{more}\n"
    write(root / name, serving_properties=text, model_py=HEAD + shape.code, **shape.files)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A standalone server over every shape, alone and with batches."""
    folder = tmp_path_factory.mktemp("shapes")
    for number, shape in enumerate(SHAPES.values()):
        lay(folder / "models", f"alone{number}", shape)
        lay(folder / "models", f"four{number}", shape, f"batch_size={CLIENTS}\nmax_batch_delay=2000\nmaxWorkers=1")
    with RunningServer(folder / "models", folder / "log", {"WHARF_PRELOAD": "numpy"}) as running:
        yield running


def ask(server: RunningServer, name: str, shape: Shape, number: int) -> Any:
    """Send what one client sends; return what it reads."""
    headers = {"Content-Type": shape.kind, "Accept": JSON}
    return shape.read(server.client.post(f"/models/{name}/invoke", content=shape.send(number), headers=headers))


@pytest.mark.parametrize("title", SHAPES)
def test_a_handler_of_this_shape_answers(server: RunningServer, title: str) -> None:
    """One request after the other."""
    number, shape = list(SHAPES).index(title), SHAPES[title]
    assert [ask(server, f"alone{number}", shape, each) for each in (3, 5)] == [shape.want(3), shape.want(5)]


@pytest.mark.parametrize("title", SHAPES)
def test_with_batches_each_client_gets_its_own_answer(server: RunningServer, title: str) -> None:
    """Twice; a handler that does not answer each of a batch is found out, said so in the log, and called for each."""
    number, shape = list(SHAPES).index(title), SHAPES[title]
    with ThreadPoolExecutor(CLIENTS) as clients:
        for _ in range(2):
            found = list(clients.map(lambda each: ask(server, f"four{number}", shape, each), range(CLIENTS)))
            assert found == [shape.want(each) for each in range(CLIENTS)]
    if shape.knows_batches is not None:
        line = f"The handler of 'four{number}' did not answer each of {CLIENTS} batched requests"
        assert server.log().count(line) == (0 if shape.knows_batches else 1)
