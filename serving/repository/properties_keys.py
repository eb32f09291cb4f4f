"""The keys and engines that a `serving.properties` may name, and what to tell people about the others.

Three kinds: keys that we act on, options that go to the handler as they are, and keys of features that we do not have.
`serving_properties` calls it. Nothing is silently ignored: an unknown key is a warning with the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

PYTHON_ENGINES = ("Python", "MPI", "DeepSpeed", "Rubikon", "FasterTransformer")
GROUP_ENGINES = PYTHON_ENGINES[1:]
ENGINES = (*PYTHON_ENGINES, "PyTorch", "OnnxRuntime", "TensorFlow", "XGBoost", "TritonServer", "Rust")

_BY_DEVICE = ("minWorkers", "maxWorkers", "required_memory_mb", "reserved_memory_mb")
_PLAIN = (
    *("engine", "batch_size", "max_batch_delay", "job_queue_size", "max_idle_time", "load_on_devices"),
    "retry_threshold",
    *_BY_DEVICE,
    *(f"{device}.{key}" for device in ("cpu", "gpu") for key in _BY_DEVICE),
)

# Read by us, or by the handlers that people bring and the built-in one (from model_id on).
_OPTIONS = (
    *("entryPoint", "handler", "pythonExecutable", "env", "engine", "mpi_mode", "modelName"),
    *("tensor_parallel_degree", "pipeline_parallel_degree"),
    *("predict_timeout", "model_loading_timeout", "max_output_size"),
    *("model_id", "revision", "task", "dtype", "trust_remote_code", "device_map", "low_cpu_mem_usage", "quantize"),
    *("split", "load_in_8bit", "max_tokens", "max_model_len", "n_positions", "input_formatter", "output_formatter"),
    *("enable_streaming", "enable_cuda_graph", "triangular_masking", "return_tuple", "training_mp_size"),
    *("checkpoint", "save_mp_checkpoint_path", "deepspeed_config_path"),
)

_DECODING = "generation is not batched continuously here; requests of a batch run as the handler runs them"
_JAVA = "it is for DJL's Java engines"
_UNSERVED = {
    "option.rolling_batch": _DECODING,
    "option.max_rolling_batch_size": _DECODING,
    "option.max_rolling_batch_prefill_tokens": _DECODING,
    "option.paged_attention": _DECODING,
    "option.enable_lora": "adapters are not served: merge them into the model",
    "option.enable_venv": "bring lib/ beside the code, or set WHARF_INSTALL_REQUIREMENTS=1",
    "option.parallel_loading": "workers start side by side anyway",
    "option.use_passive_workers": "every rank gets every request",
    "option.async_mode": "asynchronous handlers run one call at a time",
    "log_request_metric": "see /metrics",
    "metrics_aggregation": "see /metrics",
    "translatorFactory": _JAVA,
    "application": _JAVA,
    "width": _JAVA,
    "height": _JAVA,
}
_KNOWN = (*_PLAIN, *(f"option.{name}" for name in _OPTIONS), *_UNSERVED)
_DISABLED = ("disable", "false", "")


def option_name(name: str) -> str:
    """Return the key of OPTION_<name>: lower case, or the camel case of a known option; `engine` is no option."""
    plain = name.replace("_", "").lower()
    if plain == "engine":
        return "engine"
    camel = {option.lower(): option for option in _OPTIONS if not option.islower()}
    return "option." + camel.get(plain, name.lower() if name.isupper() else name)


def warnings(values: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for every key or ARGS_ variable that has no effect, or that only the handler may know."""
    for key, value in values.items():
        if key in _UNSERVED and value.lower() not in _DISABLED:
            yield f"serving.properties: {key} = {value:.80} has no effect: {_UNSERVED[key]}."
        elif key not in _KNOWN:
            yield _unknown(key)
    for name in environ:
        if name.startswith("ARGS_"):
            yield f"The environment variable {name} has no effect: {_JAVA}."


def _unknown(key: str) -> str:
    near = _nearest(key)
    hint = f" Did you mean {near}?" if near else ""
    return f"serving.properties: {key} is not known: it only reaches the handler, as a property.{hint}"


def _nearest(key: str) -> str | None:
    bare = key.removeprefix("option.")
    if bare != key and bare in _PLAIN:
        return bare
    if bare == key and key in _OPTIONS:
        return f"option.{key}"
    # 0.85 finds a letter too few or two letters swapped, and no key of another meaning.
    return next(iter(difflib.get_close_matches(key, _KNOWN, 1, 0.85)), None)
