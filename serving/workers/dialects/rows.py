"""A plain model over rows: what the scikit-learn and the tree dialects share; no dialect itself.

Knows how several requests become one call (rows are stacked and the answers dealt out again), which outputs a model
was asked for, and how to say that a library is missing. Knows no library: what predicts comes in as a function from
named arrays to named arrays. `sklearn` and `trees` build a `RowsHandler`; `huggingface` borrows the sentence.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from serving.workers.handler import HandlerError, Launch, Reply, Request

Tensors = dict[str, Any]
PREDICTIONS, PROBABILITIES = "predictions", "probabilities"
# Import name: the name that pip knows, where it is another one.
_PIP_NAMES = {"sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}
_INSTALL = (
    "name it in a requirements.txt beside the model and set WHARF_INSTALL_REQUIREMENTS=1, "
    "or put it into a lib/ folder there or into the image"
)


def missing(launch: Launch, module: str) -> HandlerError:
    """Return the error for a module that is not installed: who needs it, what pip calls it, where to name it."""
    top = module.partition(".")[0]
    pip = _PIP_NAMES.get(top, top)
    return HandlerError(
        f"Model '{launch.name}' needs the Python module '{module}' (pip package {pip}), which is not here: {_INSTALL}."
    )


def path_of(launch: Launch) -> str:
    """Return where the model file lies; raises `HandlerError` where it is not or holds nothing."""
    path = os.path.join(launch.folder, launch.file)  # noqa: PTH118  an absolute file stays as it is
    if not launch.file or not os.path.isfile(path):  # noqa: PTH113
        raise HandlerError(f"Model '{launch.name}' has no file '{launch.file}': put the model file there.")
    if os.path.getsize(path) == 0:  # noqa: PTH202  an empty buffer aborts xgboost 3.2's whole process
        raise HandlerError(f"Model file '{launch.file}' is empty: save the model again.")
    return path


def wanted_outputs(launch: Launch, known: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the option `outputs` (names with commas between) asks for, else the predictions alone.

    Raises `HandlerError` for a name that is not in `known`.
    """
    names = tuple(name.strip() for name in launch.options.get("outputs", PREDICTIONS).split(",") if name.strip())
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise HandlerError(
            f"Model '{launch.name}' has outputs {', '.join(known)} and the option outputs asks for "
            f"'{launch.options.get('outputs', '')}': choose among those."
        )
    return names


def spec(name: str, dtype: str | None, dims: list[int] | None) -> dict[str, Any]:
    """Return one spec as `Handler` has them."""
    return {"name": name, "dtype": dtype, "dims": dims}


def one_array(tensors: Tensors) -> Any:
    """Return the one array of a request; raises `HandlerError` (400) for none or several."""
    if len(tensors) != 1:
        raise HandlerError(
            f"The request has inputs {sorted(tensors)} and the model wants one array of rows: send one.", 400
        )
    return next(iter(tensors.values()))


def decode_texts(array: Any) -> Any:
    """Return an object array of str for one of bytes, other arrays as they are; 400 for what is not UTF-8."""
    if array.dtype.kind not in "OSU":
        return array
    decoded = array.astype(object)
    try:
        decoded.reshape(-1)[:] = [leaf.decode() if isinstance(leaf, bytes) else leaf for leaf in array.reshape(-1)]
    except UnicodeDecodeError as fault:
        raise HandlerError(f"A text is not UTF-8 at byte {fault.start}: send UTF-8.", 400) from None
    return decoded


def plain(array: Any) -> Any:
    """Return an answer of any library as an array that travels: bytes for strings, int64 for whole numbers."""
    import numpy as np

    array = np.asarray(array.toarray() if hasattr(array, "toarray") else array)
    if array.dtype.kind in "OSU":
        texts = np.empty(array.size, object)
        texts[:] = [leaf if isinstance(leaf, bytes) else str(leaf).encode() for leaf in array.reshape(-1).tolist()]
        return texts.reshape(array.shape)
    return array.astype(np.int64, copy=False) if array.dtype.kind in "iu" else array


class RowsHandler:
    """A `Handler` around `predict`, a function from arrays by name to arrays by name with as many rows."""

    takes_tensors = True

    def __init__(
        self,
        predict: Callable[[Tensors], Tensors],
        inputs: list[dict[str, Any]] | None,
        outputs: list[dict[str, Any]] | None,
    ) -> None:
        self.predict = predict
        self.inputs = inputs
        self.outputs = outputs

    def call(self, requests: list[Request]) -> list[Reply]:
        """Predict all requests in one call where their rows stack, else one after the other."""
        tensors = [request.tensors or {} for request in requests]
        if len(tensors) > 1 and len(set(map(_kind, tensors))) == 1:
            return self._stacked(tensors)
        return [Reply(tensors=self.predict(each)) for each in tensors]

    def _stacked(self, tensors: list[Tensors]) -> list[Reply]:
        import numpy as np

        sizes = [len(next(iter(each.values()))) for each in tensors]
        whole = self.predict({name: np.concatenate([each[name] for each in tensors]) for name in tensors[0]})
        ends = np.cumsum(sizes)[:-1]
        parts = {name: np.split(array, ends) for name, array in whole.items()}
        return [Reply(tensors={name: part[n] for name, part in parts.items()}) for n in range(len(tensors))]

    def close(self) -> None:
        """Nothing to say farewell to."""


def _kind(tensors: Tensors) -> object:
    """Equal for requests whose rows stack; a fresh object for one that cannot."""
    if not tensors or any(array.ndim == 0 for array in tensors.values()):
        return object()
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(tensors.items()))
