"""What a model says of itself in TensorFlow Serving's language: the status of its versions, and its signatures.

Pure functions of the catalog, a spec and a model; `tfs` calls them. Source of the shapes: get_model_status.proto and
get_model_metadata.proto as that server prints them, numbers of 64 bits as texts.
"""

from __future__ import annotations

from typing import Any

from serving.backends.base import LoadedModel
from serving.catalog import Catalog
from serving.codecs.tfs_faults import TYPE_NAMES
from serving.errors import ModelNotFoundError
from serving.repository.layouts import ModelSpec
from serving.signatures import signatures_of
from serving.tensors import Method, TensorSpec

PREDICT = "tensorflow/serving/predict"
_OK = {"error_code": "OK", "error_message": ""}


def status(catalog: Catalog, name: str, version: str) -> dict[str, Any]:
    """Return the states of a model's versions, the highest first; nothing is loaded for it.

    Raises `ModelNotFoundError` with TensorFlow Serving's text.
    """
    states = catalog.states(name)
    if not states:
        raise ModelNotFoundError(f"Could not find any versions of model {name}")
    found = [each for each in states if version in ("", each[0])]
    if not found:
        raise ModelNotFoundError(f"Could not find version {version} of model {name}")
    return {"model_version_status": [_state(*each) for each in sorted(found, key=lambda each: -int(each[0]))]}


def _state(version: str, state: str, reason: str) -> dict[str, Any]:
    said = {"error_code": "UNKNOWN", "error_message": reason} if reason else _OK
    return {"version": version, "state": state, "status": said}


def metadata(model: LoadedModel, spec: ModelSpec) -> dict[str, Any]:
    """Return the signatures of a loaded model."""
    described = {name: _signature(each) for name, each in sorted(signatures_of(model).items())}
    return {
        "model_spec": {"name": spec.name, "signature_name": "", "version": spec.version},
        "metadata": {"signature_def": {"signature_def": described}},
    }


def _signature(method: Method) -> dict[str, Any]:
    signature = method.signature
    return {
        "inputs": {each.name: _tensor(each) for each in signature.inputs},
        "outputs": {each.name: _tensor(each) for each in signature.outputs},
        "method_name": method.name or PREDICT,
        "defaults": {},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    """Return a TensorInfo; the name of a tensor in a graph, which only a graph has, is that of the input or output."""
    dims = [{"size": str(dim), "name": ""} for dim in spec.dims or ()]
    return {
        "dtype": f"DT_{TYPE_NAMES[spec.dtype].upper()}" if spec.dtype else "DT_INVALID",
        "tensor_shape": {"dim": dims, "unknown_rank": spec.dims is None},
        "name": f"{spec.name}:0",
    }
