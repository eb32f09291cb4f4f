"""The functions that a script may leave out: what the toolkits' own do, and what ours refuse."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import sagemaker_defaults as defaults
from serving.workers.handler import HandlerError, Launch
from tests.workers.people import answer, ask, loaded, script

JSON, CSV, NPY, NPZ = defaults.JSON, defaults.CSV, defaults.NPY, defaults.NPZ

DOUBLE = "def model_fn(model_dir):\n    return lambda data: data * 2\n"


def _npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def _npz(save: Callable[..., None] = np.savez, *arrays: Any, **named: Any) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type", "wanted"),
    [
        ("[[1, 2], [3, 4]]", JSON, np.array([[1, 2], [3, 4]])),
        ("[1.5]", f"{JSON}; charset=utf-8", np.array([1.5])),
        ("7", JSON, np.array(7)),
        ('["a", "b"]', JSON, np.array(["a", "b"])),
        ("[1]", None, np.array([1])),
        ("[1]", "Application/JSON", np.array([1])),
        (b"[1]", JSON, np.array([1])),
        ("1,2\n3,4", CSV, np.array([[1, 2], [3, 4]])),
        ("1,2.5\n3,4.5\n", CSV, np.array([[1, 2.5], [3, 4.5]])),
        ("1,2,3", CSV, np.array([1, 2, 3])),
        ("a,b\nc,d", CSV, np.array([["a", "b"], ["c", "d"]])),
        (_npy(np.arange(4, dtype=np.int16)), NPY, np.arange(4, dtype=np.int16)),
        (_npy(np.eye(2, order="F")), NPY, np.eye(2)),
        (_npy(np.zeros((0, 3))), NPY, np.zeros((0, 3))),
        (_npz(np.savez, np.arange(3)), NPZ, np.arange(3)),
        (_npz(np.savez_compressed, np.eye(2)), NPZ, np.eye(2)),
    ],
)
def test_a_body_becomes_the_array_that_it_says(body: str | bytes, content_type: str | None, wanted: Any) -> None:
    """Each of the toolkit's types; a missing one is JSON; parameters and case do not matter."""
    got = defaults.decode(body, content_type)
    np.testing.assert_array_equal(got, wanted)
    assert got.dtype == wanted.dtype


def test_a_json_object_stays_a_dict() -> None:
    """transformers' handlers are given {"inputs": ...}, and nobody wants an array of one object."""
    assert defaults.decode('{"inputs": ["a"]}', JSON) == {"inputs": ["a"]}


def test_csv_of_text_and_numbers_is_a_record_array() -> None:
    """As numpy guesses the columns, which is what the toolkit hands over."""
    table = defaults.decode("a,1\nb,2", CSV)
    assert table.dtype.names == ("f0", "f1")
    assert list(table["f1"]) == [1, 2]


def test_an_npz_of_several_arrays_is_a_dict() -> None:
    """By their names."""
    arrays = defaults.decode(_npz(a=np.arange(2), b=np.eye(2)), NPZ)
    assert {name: array.shape for name, array in arrays.items()} == {"a": (2,), "b": (2, 2)}


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", "coo_matrix"])
def test_an_npz_of_scipys_is_its_sparse_matrix(kind: str) -> None:
    """The toolkit reads nothing else under this type."""
    sparse = pytest.importorskip("scipy.sparse")
    matrix = getattr(sparse, kind)(np.array([[0, 0, 3], [4, 0, 0]]))
    got = defaults.decode(_npz(sparse.save_npz, matrix), NPZ)
    assert sparse.issparse(got)
    np.testing.assert_array_equal(got.toarray(), matrix.toarray())


@pytest.mark.parametrize("content_type", ["text/plain", "text/html; charset=utf-8"])
def test_text_is_a_str(content_type: str) -> None:
    """For models that take text."""
    assert defaults.decode("é".encode(), content_type) == "é"


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "nonsense"])
def test_an_unknown_type_is_a_415_that_lists_the_known(content_type: str) -> None:
    """And says that an input_fn would read it."""
    with pytest.raises(HandlerError, match=r"send application/json.*or give the script an input_fn") as caught:
        defaults.decode(b"", content_type)
    assert caught.value.status == 415


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("", JSON),
        ("{", JSON),
        ("[[1], [1, 2]]", JSON),
        ("[" * 200_000, JSON),
        ("", CSV),
        (" \n", CSV),
        ("1,2\n3", CSV),
        (b"", NPY),
        (b"\x93NUMPY\x01\x00", NPY),
        (b"no npy at all", NPY),
        (b"\x93NUMPY\x03\x00" + bytes(64), NPY),
        (_npy(np.arange(9))[:-1], NPY),
        (_npy(np.array([Trap()], dtype=object), allow_pickle=True), NPY),
        (b"", NPZ),
        (_npz(np.savez, np.arange(9))[:-30], NPZ),
        (_npz(np.savez, np.array([Trap()], dtype=object)), NPZ),
        (b"\xff", "text/plain"),
    ],
)
def test_a_body_that_is_not_its_type_is_a_400(body: str | bytes, content_type: str) -> None:
    """Cut, ragged, deep, empty; and what would be unpickled."""
    with pytest.raises(HandlerError, match="The body is not the") as caught:
        defaults.decode(body, content_type)
    assert caught.value.status == 400


def test_an_npy_that_claims_more_than_it_holds_is_a_400_and_no_memory_error() -> None:
    """Otherwise a hundred bytes were answered 507, and the platform unloaded models for it."""
    body = _npy(np.zeros(1)).replace(b"(1,)", b"(1000000000000000,)").replace(b" " * 15 + b"\n", b"\n")
    with pytest.raises(HandlerError, match=r"says shape \[1000000000000000\] of float64 and the data end before"):
        defaults.decode(body, NPY)


def test_an_npz_that_unpacks_to_too_much_is_a_413(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not unpacked at all."""
    monkeypatch.setattr(defaults, "MAX_NPZ_BYTES", 1000)
    with pytest.raises(HandlerError, match="limit is 1000") as caught:
        defaults.decode(_npz(np.savez_compressed, np.zeros(10_000)), NPZ)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("prediction", "accept", "body"),
    [
        (np.array([[1.5, 2.0]]), JSON, "[[1.5, 2.0]]"),
        ({"p": np.float32(0.5), "l": ["a", np.arange(2)]}, JSON, '{"p": 0.5, "l": ["a", [0, 1]]}'),
        ("text", JSON, '"text"'),
        (None, JSON, "null"),
        (np.array([[1.5, 2.0], [3, 4]]), CSV, "1.5,2.0\n3.0,4.0\n"),
        ([1, 2], CSV, "1\n2\n"),
        (np.array(["a", "b"]), CSV, "a\nb\n"),
    ],
)
def test_a_prediction_is_written_as_the_type_accepted(prediction: Any, accept: str, body: str) -> None:
    """Arrays, single values and nests of them."""
    assert defaults.encode(prediction, accept) == (body, accept)


def test_a_prediction_is_written_as_npy() -> None:
    """With its own type of numbers."""
    body, content_type = defaults.encode(np.arange(3, dtype=np.int8), NPY)
    assert content_type == NPY
    assert np.load(io.BytesIO(body)).dtype == np.int8


@pytest.mark.parametrize(
    ("accept", "default_accept", "wanted"),
    [
        ("image/png, text/csv", JSON, CSV),
        ("image/png, */*", NPY, NPY),
        ("Application/JSON; q=0.5", CSV, JSON),
        ("text/csv, application/json", JSON, CSV),
    ],
)
def test_the_first_type_of_accept_that_can_be_written_is(accept: str, default_accept: str, wanted: str) -> None:
    """In the client's order; the any-type is the default one."""
    assert defaults.encode(np.arange(2), accept, default_accept)[1] == wanted


@pytest.mark.parametrize("accept", ["image/png", "application/x-npz", "text/plain, image/*", ","])
def test_an_unknown_accept_is_a_406_that_lists_the_known(accept: str) -> None:
    """And says that an output_fn would write it; nothing at all is JSON."""
    if accept == ",":
        assert defaults.encode([1], accept)[1] == JSON
        return
    with pytest.raises(HandlerError, match=r"accept application/json.*output_fn") as caught:
        defaults.encode([1], accept)
    assert caught.value.status == 406


@pytest.mark.parametrize(
    ("prediction", "accept"),
    [
        (object(), JSON),
        (np.zeros((2, 2, 2)), CSV),
        (5, CSV),
        ({"a": [1]}, CSV),
        ([[1], [1, 2]], CSV),
        (np.array([{}], dtype=object), NPY),
        ([[1], [1, 2]], NPY),
    ],
)
def test_a_prediction_that_its_type_cannot_hold_is_a_406_that_names_it(prediction: Any, accept: str) -> None:
    """Another Accept may well do."""
    with pytest.raises(HandlerError, match=rf"a {type(prediction).__name__}, cannot be written as {accept}") as caught:
        defaults.encode(prediction, accept)
    assert caught.value.status == 406


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("lambda data: data.sum(axis=1)", [3, 7]),
        ("type('M', (), {'predict': lambda self, data: data[0]})()", [1, 2]),
        ("type('M', (), {'predict': lambda self, data: 1, '__call__': lambda self, data: 2})()", 1),
    ],
)
def test_a_model_predicts_or_is_called(tmp_path: Path, source: str, wanted: Any) -> None:
    """predict first, as scikit-learn's."""
    launch = script(tmp_path, f"def model_fn(model_dir): return {source}\n")
    assert json.loads(answer(launch, "[[1, 2], [3, 4]]", content_type=JSON)) == wanted


def test_a_model_that_cannot_predict_is_a_load_error_unless_the_script_does(tmp_path: Path) -> None:
    """A tuple of model and tokenizer needs a predict_fn."""
    source = "def model_fn(model_dir): return ('model', 'tokenizer')\n"
    with (
        pytest.raises(ValueError, match="is a tuple without predict.*give the script a predict_fn"),
        loaded(script(tmp_path, source)),
    ):
        pass
    launch = script(tmp_path, source + "def predict_fn(data, model): return data['inputs'] + list(model)\n")
    assert json.loads(answer(launch, '{"inputs": ["a"]}', content_type=JSON)) == ["a", "model", "tokenizer"]


@pytest.mark.parametrize("accept", [JSON, CSV, NPY])
@pytest.mark.parametrize("content_type", [JSON, CSV, NPY, NPZ])
def test_a_script_with_model_fn_alone_speaks_every_type(tmp_path: Path, content_type: str, accept: str) -> None:
    """What comes in by any type goes out by any other."""
    array = np.array([[1.0, 2.5], [3.0, 4.5]])
    bodies = {JSON: b"[[1.0, 2.5], [3.0, 4.5]]", CSV: b"1.0,2.5\n3.0,4.5", NPY: _npy(array), NPZ: _npz(a=array)}
    with loaded(script(tmp_path, DOUBLE)) as handler:
        reply = ask(handler, bodies[content_type], content_type=content_type, accept=accept)
    assert reply.headers == {"Content-Type": accept}
    read: dict[str, Callable[[bytes], Any]] = {
        JSON: json.loads,
        CSV: lambda raw: np.loadtxt(io.StringIO(raw.decode()), delimiter=","),
        NPY: lambda raw: np.load(io.BytesIO(raw)),
    }
    np.testing.assert_array_equal(read[accept](bytes(reply.body)), array * 2)


def test_a_scikit_learn_model_needs_model_fn_alone(tmp_path: Path) -> None:
    """The scikit-learn container's scripts have no more."""
    linear: Any = pytest.importorskip("sklearn.linear_model")
    joblib: Any = pytest.importorskip("joblib")
    joblib.dump(linear.LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0]), tmp_path / "model.joblib")
    source = "import joblib, os\ndef model_fn(d): return joblib.load(os.path.join(d, 'model.joblib'))\n"
    assert json.loads(answer(script(tmp_path, source), "[[2.0]]", content_type=JSON)) == [pytest.approx(5)]


def test_an_xgboost_booster_is_given_its_matrix(tmp_path: Path) -> None:
    """Boosters take no arrays; the XGBoost container's scripts return one from model_fn."""
    xgboost: Any = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(np.array([[0.0], [1.0]]), label=[0.0, 1.0])
    xgboost.train({"nthread": 1}, data, 2).save_model(tmp_path / "model.json")
    source = "import xgboost\ndef model_fn(d): return xgboost.Booster(model_file=d + '/model.json')\n"
    assert len(json.loads(answer(script(tmp_path, source), "[[0.0], [1.0]]", content_type=JSON))) == 2


TORCH = """
import torch
class Net(torch.nn.Module):
    def forward(self, data): return {forward}
def model_fn(model_dir): return Net()
"""


@pytest.mark.torch
@pytest.mark.parametrize(
    ("body", "content_type", "dtype"),
    [
        (b"[[1, 2]]", JSON, "torch.float32"),
        (b"1,2", CSV, "torch.float32"),
        (_npy(np.arange(3)), NPY, "torch.int64"),
        (_npy(np.arange(3, dtype=">f8")), NPY, "torch.float64"),
        (b'["a"]', JSON, "<U1"),
    ],
)
def test_a_torch_module_is_given_tensors(tmp_path: Path, body: bytes, content_type: str, dtype: str) -> None:
    """FP32 from text, its own type from npy, as the PyTorch container; text stays numpy's."""
    launch = script(tmp_path, TORCH.format(forward="[str(data.dtype)]"))
    assert json.loads(answer(launch, body, content_type=content_type)) == [dtype]


@pytest.mark.torch
def test_a_torch_module_predicts_in_evaluation_and_without_gradients(tmp_path: Path) -> None:
    """Whatever model_fn left it in."""
    launch = script(tmp_path, TORCH.format(forward="[self.training, torch.is_grad_enabled()]"))
    assert json.loads(answer(launch, "[1]", content_type=JSON)) == [False, False]


@pytest.mark.torch
@pytest.mark.parametrize("cast", ["data", "data.bfloat16()", "data.requires_grad_(True)"])
@pytest.mark.parametrize("accept", [JSON, CSV, NPY])
def test_a_tensor_is_written_as_every_type(cast: str, accept: str) -> None:
    """numpy has no bfloat16, and refuses tensors with gradients."""
    torch = pytest.importorskip("torch")
    tensor = eval(cast, {"data": torch.tensor([1.5, 2.0])})
    body, content_type = defaults.encode(tensor, accept)
    assert content_type == accept
    assert body if accept == NPY else "1.5" in body


def _save_program(path: Path) -> None:
    import torch

    torch.jit.save(torch.jit.trace(torch.nn.Flatten(0), torch.zeros(1, 1), check_trace=False), str(path))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["model.pt", "model.pth", "other.pt"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_without_model_fn_the_only_program_is_loaded(tmp_path: Path, name: str) -> None:
    """TorchScript, by the PyTorch container's name or alone; a state dict beside it is none."""
    import torch

    _save_program(tmp_path / name)
    torch.save({"w": torch.zeros(1)}, tmp_path / "weights.pth")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    launch = Launch(name="m", dialect="sagemaker", folder=str(tmp_path))
    assert json.loads(answer(launch, "[[1, 2]]", content_type=JSON)) == [1, 2]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_two_programs_without_a_name_are_a_load_error(tmp_path: Path) -> None:
    """Nobody can tell which; the message names both."""
    _save_program(tmp_path / "a.pt")
    _save_program(tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"has 2 TorchScript files \(of \['a.pt', 'b.pt'\]\)"):
        defaults.model_fn(str(tmp_path))


def test_a_state_dict_without_model_fn_is_a_load_error_that_says_what_to_do(tmp_path: Path) -> None:
    """It has no network in it."""
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(ValueError, match=r"give the script a model_fn, or save with torch.jit.save as model.pt"):
        defaults.model_fn(str(tmp_path))
