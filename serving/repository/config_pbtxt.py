"""What Triton's `config.pbtxt` means for a model here, and what of it is not acted on.

`triton_schema` parses it; `triton_tensors`, `triton_scheduling`, `versions`, `warmup` and `triton_parameters` read its
parts. `name` is Triton's own check on the folder, here the caller names the model. Fields that change what a model
means are refused by name; others that this version does not act on become warnings that name them. `layouts` calls this
room, only where there is such a file.

Models of Triton's Python backend read the whole configuration themselves: `ModelConfig.triton` has all of it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from serving.errors import InvalidArtifactError
from serving.repository.model_config import ModelConfig
from serving.repository.saved_model_layout import SAVED_MODEL
from serving.repository.triton_parameters import idle_parameters, optimize_of, threads_of
from serving.repository.triton_scheduling import device_of, idle_of_scheduling, read_scheduling
from serving.repository.triton_schema import as_json, read, set_fields
from serving.repository.triton_tensors import idle_of_tensors, read_tensors
from serving.repository.versions import read_policy
from serving.repository.warmup import read_warmup

PYTHON = "triton_python"
ENSEMBLE = "ensemble"
TRITON = "triton"
"""The format of what tritonserver alone runs."""

# Triton's `platform`, or its `backend`; None leaves torch's two formats to the file.
_FORMATS = {
    "onnxruntime_onnx": "onnx",
    "onnxruntime": "onnx",
    "pytorch_libtorch": "torchscript",
    "pytorch": None,
    "torch_aoti": "torch_export",
    "python": PYTHON,
    "ensemble": ENSEMBLE,
    **dict.fromkeys(("tensorflow_savedmodel", "tensorflow"), SAVED_MODEL),
    **dict.fromkeys(
        (
            "tensorrt",
            "tensorrt_plan",
            "tensorflow_graphdef",
            "openvino",
            "fil",
            "dali",
        ),
        TRITON,
    ),
}

# What is acted on, here or in a room beside this one, which looks into it.
_USED_ITSELF = ("name", "platform", "backend", "max_batch_size", "default_model_filename", "model_transaction_policy")
_USED_IN_ROOMS = (
    "input",
    "output",
    "version_policy",
    "dynamic_batching",
    "instance_group",
    "parameters",
    "model_warmup",
    "ensemble_scheduling",
)
_USED = frozenset((*_USED_ITSELF, *_USED_IN_ROOMS))

_REFUSED = {
    "sequence_batching": "it keeps state between requests, which this version cannot; send the state along",
    "batch_input": "its inputs are made by Triton's batcher; give the model plain inputs",
    "batch_output": "its outputs are split by Triton's batcher; give the model plain outputs",
    "model_operations": "it needs libraries of custom operators; use operators of the runtime itself",
    "model_repository_agents": "it wants an agent to check or change the model's files; bring them as they are served",
}


def read_config_pbtxt(
    model: str, file: Path, device: str = "cpu", given_away: Collection[str] = (), folder: Path | None = None
) -> ModelConfig:
    """Read `file`, the configuration of `model`, for a server on `device`.

    `given_away` are backends of Triton's that tritonserver is to run though we could; it reads their fields itself.
    `folder` is the model's, where that is not the file's own.
    Raises `InvalidArtifactError` for what cannot be parsed, is refused, or when tritonclient is not installed.
    """
    config, folder = read(file), folder or file.parent
    format_ = _format(config)
    if given_away and {config.backend, config.platform}.intersection(given_away):
        format_ = TRITON
    if format_ == TRITON:
        return ModelConfig(
            format=TRITON,
            inputs=read_tensors(model, config.input, config.max_batch_size, folder),
            outputs=read_tensors(model, config.output, config.max_batch_size, folder),
            triton={**as_json(config), "name": config.name or model},
            scheduling=read_scheduling(model, config),
            versions=read_policy(model, config),
        )
    is_python = format_ == PYTHON
    _check_fields(model, config, is_python=is_python)
    scheduling = read_scheduling(model, config)
    return ModelConfig(
        format=format_,
        file=config.default_model_filename or None,
        threads=None if is_python else threads_of(model, config),
        optimize=None if is_python else optimize_of(model, config),
        device=device_of(config) if device != "cpu" else None,
        inputs=read_tensors(model, config.input, config.max_batch_size, folder),
        outputs=read_tensors(model, config.output, config.max_batch_size, folder),
        triton={**as_json(config), "name": config.name or model},
        scheduling=scheduling,
        versions=read_policy(model, config),
        warmup=read_warmup(model, config, folder),
        idle=_idle(config, is_python=False, device=device),
        idle_in_python=_idle(config, is_python=True, device=device),
    )


def warnings_of(model: str, config: ModelConfig, *, is_python: bool) -> tuple[str, ...]:
    """Return a sentence that names what of a model's config.pbtxt nobody acts on."""
    idle = config.idle_in_python if is_python else config.idle
    if not idle:
        return ()
    fields = ", ".join(idle)
    return (f"config.pbtxt of '{model}' sets {fields}, which this version does not act on: it is served without.",)


def _check_fields(model: str, config: Any, *, is_python: bool) -> None:
    for name in set_fields(config):
        if name in _REFUSED:
            raise InvalidArtifactError(f"config.pbtxt of '{model}' sets {name}: {_REFUSED[name]}.")
    if config.runtime.endswith(".py"):
        raise InvalidArtifactError(
            f"config.pbtxt sets runtime '{config.runtime}', which this version does not run: use backend 'python' "
            "with a TritonPythonModel in model.py."
        )
    if config.model_transaction_policy.decoupled and not is_python:
        raise InvalidArtifactError(
            f"config.pbtxt of '{model}' sets decoupled: that is for the Python backend (backend: \"python\"), others "
            "answer a request once."
        )
    if config.model_transaction_policy.decoupled and config.dynamic_batching.preserve_ordering:
        raise InvalidArtifactError(
            f"config.pbtxt of '{model}' sets preserve_ordering and decoupled: streams have no order among each other, "
            "leave one out."
        )
    if config.HasField("ensemble_scheduling"):
        for name in ("instance_group", "optimization", "model_warmup", "default_model_filename"):
            if name in set_fields(config):
                raise InvalidArtifactError(
                    f"config.pbtxt of the ensemble '{model}' sets {name}: an ensemble only calls its members, set it "
                    "there."
                )
    if config.response_cache.enable and config.model_transaction_policy.decoupled:
        raise InvalidArtifactError(
            f"config.pbtxt of '{model}' sets response_cache and decoupled, which exclude each other: leave one out."
        )


def _idle(config: Any, *, is_python: bool, device: str) -> tuple[str, ...]:
    fields = [name for name in set_fields(config) if name not in _USED]
    if not config.response_cache.enable:
        fields = [name for name in fields if name != "response_cache"]
    fields += idle_of_tensors((*config.input, *config.output), is_python=is_python)
    fields += idle_of_scheduling(config, is_cpu=device == "cpu")
    if not is_python:
        fields += idle_parameters(config)
    return tuple(sorted(set(fields)))


def _format(config: Any) -> str | None:
    for value in (config.platform, config.backend):
        if value and value not in _FORMATS:
            raise InvalidArtifactError(
                f"config.pbtxt asks for the platform or backend '{value}', which this version does not serve: served "
                f"are {', '.join(_FORMATS)}."
            )
    found = ENSEMBLE if config.HasField("ensemble_scheduling") else None
    found = _FORMATS.get(config.platform) or _FORMATS.get(config.backend) or found
    if (found == ENSEMBLE) != config.HasField("ensemble_scheduling"):
        raise InvalidArtifactError(
            "config.pbtxt sets one of platform 'ensemble' and ensemble_scheduling without the other: an ensemble has "
            "both, and no other platform or backend."
        )
    return found
