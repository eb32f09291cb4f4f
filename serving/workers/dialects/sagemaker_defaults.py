"""What the toolkits do for the functions that a script leaves out: model_fn, input_fn, predict_fn, output_fn.

Bodies are JSON, CSV, npy, npz or text; answers JSON, CSV or npy. A torch module gets tensors on its device, everything
else gets numpy arrays. A JSON object stays a dict, which is what transformers' handlers are given. Nothing is unpickled
(the toolkit would: an npy with objects runs code). numpy, torch and scipy are imported when a body or a model needs
them. Called by `sagemaker`, and by `tensorflow` for a model without a TensorFlow.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Union

from serving.workers.dialects.sagemaker_context import listed
from serving.workers.handler import Body, HandlerError

_loads = json.loads
_dumps = json.dumps

JSON = "application/json"
CSV = "text/csv"
NPY = "application/x-npy"
NPZ = "application/x-npz"
UTF8_TYPES = (JSON, CSV)
"""The types whose bodies the toolkit decodes before `input_fn` sees them; all others, text/plain too, are bytes."""

MAX_NPZ_BYTES = 256 << 20
"""An archive's arrays, unpacked: 42 times the 6 MiB that InvokeEndpoint carries; deflate could say 1,000 times."""

Payload = Union[str, bytes]  # noqa: UP007  evaluated, and Python 3.9 has no |


def media_type(content_type: str | None) -> str:
    """Return a Content-Type without its parameters, in lower case; none is JSON."""
    return (content_type or JSON).partition(";")[0].strip().lower() or JSON


def text(body: Body, content_type: str | None) -> str:
    """Decode a UTF-8 body; raises `HandlerError` 400 with the place of the fault."""
    try:
        return str(body, "utf-8")
    except UnicodeDecodeError as fault:
        raise HandlerError(f"The {content_type} body is not UTF-8 at byte {fault.start}: send UTF-8.", 400) from None


def decode(body: Payload, content_type: str | None) -> Any:
    """Read a body as its Content-Type says: arrays, a dict for a JSON object, str for text.

    Raises `HandlerError`: 415 for an unknown type, 400 for a body that is not what its type says.
    """
    media = media_type(content_type)
    reader = _READERS.get(media) or (_text if media.startswith("text/") else None)
    if reader is None:
        raise HandlerError(
            f"Content-Type '{str(content_type)[:200]}' has no default: send {', '.join(_READERS)} or text, "
            "or give the script an input_fn.",
            415,
        )
    try:
        return reader(body)
    except (ValueError, EOFError, OSError, KeyError, RecursionError, zipfile.BadZipFile, NotImplementedError) as fault:
        raise HandlerError(f"The body is not the {media} that its Content-Type says: {fault}.", 400) from None


def _text(body: Payload) -> str:
    return body if isinstance(body, str) else body.decode()


def _bytes(body: Payload) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _read_json(body: Payload) -> Any:
    import numpy as np

    value = _loads(_text(body))
    return value if isinstance(value, dict) else np.array(value)


def _read_csv(body: Payload) -> Any:
    """Read rows as numpy guesses them: one row is one-dimensional, columns of text and numbers make a record array."""
    import numpy as np
    from numpy.lib import recfunctions

    rows = _text(body)
    if not rows.strip():
        raise ValueError("it is empty")
    table = np.genfromtxt(io.StringIO(rows), dtype=None, delimiter=",", encoding="utf-8")
    kinds = [table.dtype[name].kind for name in table.dtype.names or ()]
    return recfunctions.structured_to_unstructured(table) if kinds and set(kinds) <= set("iuf") else table


def _read_npy(body: Payload) -> Any:
    """Read an array whose header claims no more than the body holds: numpy would allocate what it claims first."""
    import numpy as np

    raw = _bytes(body)
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version[0]}.{version[1]} is not read, save it without field names")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    items = 1
    for dim in shape:
        items *= dim
    if not dtype.hasobject and items * dtype.itemsize > len(raw) - stream.tell():
        raise ValueError(f"its header says shape {list(shape)} of {dtype} and the data end before")
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def _read_npz(body: Payload) -> Any:
    """Read a sparse matrix of scipy's, or the one array, or several by name."""
    raw = _bytes(body)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        size = sum(member.file_size for member in archive.infolist())
        if size > MAX_NPZ_BYTES:
            raise HandlerError(f"The npz unpacks to {size} bytes, the limit is {MAX_NPZ_BYTES}: send less.", 413)
        arrays = {name[: -len(".npy")]: _read_npy(archive.read(name)) for name in archive.namelist()}
    if "format" in arrays and "shape" in arrays:
        return importlib.import_module("scipy.sparse").load_npz(io.BytesIO(raw))
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


_READERS: Mapping[str, Callable[[Payload], Any]] = {JSON: _read_json, CSV: _read_csv, NPY: _read_npy, NPZ: _read_npz}


def encode(prediction: Any, accept: str, default_accept: str = JSON) -> tuple[Any, str]:
    """Write a prediction as the first type of `accept` that is JSON, CSV or npy; return it with its type.

    An iterator passes through, to be streamed. Raises `HandlerError` 406 for another type, or a prediction that the
    type cannot hold.
    """
    if isinstance(prediction, Iterator):
        return prediction, accept
    for media in map(media_type, accept.split(",")):
        chosen = media_type(default_accept) if media == "*/*" else media
        if chosen in _WRITERS:
            return _written(prediction, chosen), chosen
    raise HandlerError(
        f"Accept '{accept[:200]}' has no default: accept {', '.join(_WRITERS)}, or give the script an output_fn.", 406
    )


def _written(prediction: Any, media: str) -> Any:
    try:
        return _WRITERS[media](prediction)
    except (ValueError, TypeError) as fault:
        raise HandlerError(
            f"The prediction, a {type(prediction).__name__}, cannot be written as {media}, {fault}: "
            f"accept another of {', '.join(_WRITERS)}, or give the script an output_fn.",
            406,
        ) from None


def _host(prediction: Any) -> Any:
    """Return a torch tensor as numpy sees it (bfloat16, which numpy has not, as float32); anything else as it is."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(prediction, torch.Tensor):
        return prediction
    tensor = prediction.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _write_json(prediction: Any) -> str:
    return _dumps(prediction, default=listed)


def _write_csv(prediction: Any) -> str:
    import numpy as np

    stream = io.StringIO()
    np.savetxt(stream, _host(prediction), delimiter=",", fmt="%s")
    return stream.getvalue()


def _write_npy(prediction: Any) -> bytes:
    import numpy as np

    stream = io.BytesIO()
    np.save(stream, _host(prediction), allow_pickle=False)
    return stream.getvalue()


_WRITERS: Mapping[str, Callable[[Any], Any]] = {JSON: _write_json, CSV: _write_csv, NPY: _write_npy}


def model_fn(model_dir: str, device: str = "cpu") -> Any:
    """Load the folder's TorchScript file: model.pt, model.pth, or the only one.

    Raises `ValueError` that says what was found where there is none or no only one.
    """
    files = [path for path in sorted(Path(model_dir).iterdir()) if path.suffix in (".pt", ".pth")]
    programs = [path for path in files if _is_torchscript(path)]
    named = [path for path in programs if path.stem == "model"]
    if not named and len(programs) != 1:
        raise ValueError(
            f"'{model_dir}' has {len(programs)} TorchScript files (of {[path.name for path in files]}) and the default "
            "model_fn wants one: give the script a model_fn, or save with torch.jit.save as model.pt."
        )
    import torch

    return torch.jit.load(str((named or programs)[0]), map_location=torch.device(device))


def _is_torchscript(path: Path) -> bool:
    """Tell a program from a state dict: both are zip files, and constants.pkl is only in programs."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def is_torch(model: Any) -> bool:
    """Tell a torch module (TorchScript's are) without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


def as_tensor(data: Any, content_type: str | None, device: str) -> Any:
    """Return a numeric array as a torch tensor on `device`: FP32 from JSON and CSV, its own type from npy."""
    import torch

    if getattr(getattr(data, "dtype", None), "kind", "") not in ("b", "i", "u", "f") or not hasattr(data, "__array__"):
        return data
    kind = torch.float32 if media_type(content_type) in UTF8_TYPES else None
    native = data.astype(data.dtype.newbyteorder("="), copy=False)  # torch knows no other byte order
    return torch.as_tensor(native, dtype=kind, device=device)


def predictor(model: Any, device: str = "cpu") -> Callable[[Any], Any]:
    """Return how `model` predicts: 1. a torch module, called; 2. an XGBoost booster; 3. its predict; 4. a call.

    A torch module is moved to `device` and into evaluation. Raises `ValueError` for a model that has none of these.
    """
    if is_torch(model):
        return _torch_predictor(model, device)
    if type(model).__name__ == "Booster" and type(model).__module__.partition(".")[0] == "xgboost":
        matrix = sys.modules["xgboost"].DMatrix
        return lambda data: model.predict(data if isinstance(data, matrix) else matrix(data))
    if callable(getattr(model, "predict", None)):
        predict: Callable[[Any], Any] = model.predict
        return predict
    if callable(model):
        call: Callable[[Any], Any] = model
        return call
    raise ValueError(
        f"The model is a {type(model).__name__} without predict, and no function: give the script a predict_fn."
    )


def _torch_predictor(model: Any, device: str) -> Callable[[Any], Any]:
    import torch

    model = model.to(device).eval()

    def predict(data: Any) -> Any:
        with torch.no_grad():
            return model(data.to(device) if isinstance(data, torch.Tensor) else data)

    return predict
