"""What a model asks about its own folder and about other models.

It knows the folder of the version that runs; other models are out of a worker's reach, so that the functions about them
raise. `triton_python` says the folder before it imports the model.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ._errors import TritonModelException

_model_dir: list[str] = []


def get_model_dir() -> str:
    """Return the folder of the version that runs, where model.py lies."""
    if not _model_dir:
        raise TritonModelException("get_model_dir() has no folder to tell: it is for models that are being served.")
    return _model_dir[0]


def set_model_dir(folder: str) -> None:
    """Remember `folder`; for the dialect."""
    _model_dir[:] = [folder]


def no_other_models(what: str) -> NoReturn:
    """Raise `TritonModelException` that says that `what` is not done."""
    raise TritonModelException(
        f"{what} is not possible: this version does not let a model reach other models; call them from the client."
    )


def load_model(model_name: str, config: str = "", files: Any = None) -> None:  # noqa: ARG001  Triton's arguments
    """Raise `TritonModelException`: a model loads no other."""
    no_other_models(f"Loading the model '{model_name}' from a model")


def unload_model(model_name: str, unload_dependents: bool = False) -> None:  # noqa: ARG001
    """Raise `TritonModelException`: a model unloads no other."""
    no_other_models(f"Unloading the model '{model_name}' from a model")


def is_model_ready(model_name: str, model_version: str = "") -> bool:  # noqa: ARG001
    """Raise `TritonModelException`: a model does not see others."""
    no_other_models(f"Asking for the model '{model_name}' from a model")
