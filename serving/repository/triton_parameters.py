"""The `parameters` of config.pbtxt for models in process: those that map to what this server has, by Triton's names.

ONNX Runtime's and PyTorch's backends each have their own names for a number of threads and for plain graphs. Models of
the Python backend read their parameters themselves. `config_pbtxt` calls this room.
"""

from __future__ import annotations

from typing import Any

from serving.errors import InvalidArtifactError

_THREADS = ("intra_op_thread_count", "INTRA_OP_THREAD_COUNT", "NUM_THREADS", "TF_NUM_INTRA_THREADS")
# The worker of a SavedModel reads them itself.
_OF_TENSORFLOW = ("TF_SIGNATURE_DEF", "TF_GRAPH_TAG")
_PLAIN = "DISABLE_OPTIMIZED_EXECUTION"
# What is so here anyway, by the value that asks for it.
_ALWAYS = {
    "INFERENCE_MODE": True,
    "ENABLE_WEIGHT_SHARING": False,
    "ENABLE_CACHE_CLEANING": False,
    "DISABLE_CUDNN": False,
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_MOST_THREADS = 1 << 16


def threads_of(model: str, config: Any) -> int | None:
    """Return the threads that a parameter gives, None where none does or it is 0, the runtime's own choice.

    Raises `InvalidArtifactError` for one that is no number.
    """
    for name in _THREADS:
        if name in config.parameters:
            text = config.parameters[name].string_value.strip()
            if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < _MOST_THREADS):
                raise _refused(model, name, text, "a whole number, 0 or more")
            if int(text):
                return int(text)
    return None


def optimize_of(model: str, config: Any) -> bool | None:
    """Return False where a parameter wants the plain graph, else None; raises `InvalidArtifactError` for no boolean."""
    if _PLAIN not in config.parameters:
        return None
    text = config.parameters[_PLAIN].string_value
    if _boolean(text) is None:
        raise _refused(model, _PLAIN, text, "true or false")
    return False if _boolean(text) else None


def idle_parameters(config: Any) -> list[str]:
    """Return the parameters that nobody acts on."""
    return [f"parameters.{name}" for name in sorted(config.parameters) if not _is_used(name, config)]


def _is_used(name: str, config: Any) -> bool:
    if name in _ALWAYS:
        return _boolean(config.parameters[name].string_value) is _ALWAYS[name]
    return name in (*_THREADS, _PLAIN, *_OF_TENSORFLOW)


def _boolean(text: str) -> bool | None:
    return _BOOLEANS.get(text.strip().lower())


def _refused(model: str, name: str, found: str, wanted: str) -> InvalidArtifactError:
    return InvalidArtifactError(f"config.pbtxt of '{model}' has parameters.{name} '{found:.40}': use {wanted}.")
