"""The keys and engines that a `serving.properties` may name, and what to tell people about the others.

Three kinds: keys that we act on, options that go to the handler as they are, and keys of features that we do not have.
`serving_properties` calls it. Nothing is silently ignored: an unknown key is a warning with the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping

PYTHON_ENGINES = ("Python", "MPI", "DeepSpeed", "Rubikon", "FasterTransformer")
GROUP_ENGINES = PYTHON_ENGINES[1:]
ENGINES = (*PYTHON_ENGINES, "PyTorch", "OnnxRuntime", "TensorFlow", "XGBoost", "TritonServer", "Rust")

WORKERS = ("minWorkers", "maxWorkers")
"""The keys that may have `cpu.` or `gpu.` before them."""

_MEMORY = ("required_memory_mb", "reserved_memory_mb")
_PLAIN = (
    *("engine", "batch_size", "max_batch_delay", "job_queue_size", "max_idle_time", "load_on_devices"),
    *("retry_threshold", *WORKERS, *_MEMORY),
    *(f"{device}.{key}" for device in ("cpu", "gpu") for key in WORKERS),
    *(f"gpu.{key}" for key in _MEMORY),
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

_DECODING = "only an engine batches generation continuously (docs/large-models.md); a handler runs what it is given"
_JAVA = "it is for DJL's Java engines"
_BUILT_IN = "the built-in handler does not read it"
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
# Options that a handler of somebody's own may read, and the built-in one does not.
_FOREIGN = (
    *("device_map", "low_cpu_mem_usage", "quantize", "load_in_8bit", "max_tokens", "max_model_len", "n_positions"),
    *("input_formatter", "enable_cuda_graph", "triangular_masking", "return_tuple"),
    *("training_mp_size", "checkpoint", "save_mp_checkpoint_path", "deepspeed_config_path"),
)
_OWN_PYTHON = ("", "python", "python3")

# What only workers have, as a file says it.
_OF_WORKERS = (
    *("batch_size", "max_batch_delay", "job_queue_size", "max_idle_time", "retry_threshold", *WORKERS),
    *("option.predict_timeout", "option.model_loading_timeout", "option.max_output_size", "option.env"),
)
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
    if "/" not in (python := values.get("option.pythonExecutable", "")) and python not in _OWN_PYTHON:
        yield (
            f"serving.properties: option.pythonExecutable = {python:.80} is a bare name, and our own interpreter runs "
            "the model: bring an environment and name its path (env/bin/python)."
        )
    if "0" in {value for key, value in values.items() if key.rpartition(".")[2] == "minWorkers"}:
        yield "serving.properties: minWorkers = 0 is taken as 1: a model that is loaded has a worker."
    for name in environ:
        if name.startswith("ARGS_"):
            yield f"The environment variable {name} has no effect: {_JAVA}."


def built_in_warnings(options: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for every option that the built-in Hugging Face handler leaves alone."""
    for name in _FOREIGN:
        if options.get(name, "").lower() not in _DISABLED:
            yield f"serving.properties: option.{name} = {options[name]:.80} has no effect: {_BUILT_IN}."


def in_process_warnings(keys: Collection[str]) -> Iterator[str]:
    """Yield a line that names the keys of workers, for a model that has none."""
    bare = {key.removeprefix("cpu.").removeprefix("gpu.") for key in keys}
    if found := [key for key in _OF_WORKERS if key in bare]:
        yield f"serving.properties sets {', '.join(found)}, which a model that is served in process has not."


def _unknown(key: str) -> str:
    near = _nearest(key)
    hint = f" Did you mean {near}?" if near else ""
    return f"serving.properties: {key} is not known: it only reaches the handler, as a property.{hint}"


def _nearest(key: str) -> str | None:
    prefix, _, bare = key.partition(".")
    if prefix in ("option", "cpu", "gpu") and bare in _PLAIN:
        return bare
    if key in _OPTIONS:
        return f"option.{key}"
    # 0.85 finds a letter too few or two letters swapped, and no key of another meaning.
    return next(iter(difflib.get_close_matches(key, _KNOWN, 1, 0.85)), None)
