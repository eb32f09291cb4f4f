"""What to set instead of the variables of SageMaker's other containers, which do nothing here: data.

None of them is ignored in silence: `settings` says a sentence for each at the start.
"""

from __future__ import annotations

from collections.abc import Mapping

_NO_NEED = "nothing here needs it; leave it out."
_MEMORY = "tensors travel in memory of their own size; leave it out."
_QUEUE = "dynamic_batching and max_batch_size in a model's config.pbtxt say how requests are joined."
_THREADS = "set threads in a model's wharf.toml instead."
_INSTEAD: Mapping[str, str] = {
    "SAGEMAKER_TRITON_ADDITIONAL_ARGS": "tritonserver is started without them; docs/settings.md lists what can be set.",
    "SAGEMAKER_TRITON_ALLOW_GRPC": "set WHARF_GRPC_PORT to have gRPC.",
    "SAGEMAKER_TRITON_GRPC_PORT": "set WHARF_GRPC_PORT instead.",
    "SAGEMAKER_TRITON_ALLOW_METRICS": "/metrics is always there, on the HTTP port.",
    "SAGEMAKER_TRITON_METRICS_PORT": "/metrics is on the HTTP port.",
    "SAGEMAKER_TRITON_BUFFER_MANAGER_THREAD_COUNT": _NO_NEED,
    "SAGEMAKER_TRITON_THREAD_COUNT": "set WHARF_MAX_IN_FLIGHT instead.",
    "SAGEMAKER_TRITON_SHM_DEFAULT_BYTE_SIZE": _MEMORY,
    "SAGEMAKER_TRITON_SHM_GROWTH_BYTE_SIZE": _MEMORY,
    "SAGEMAKER_TRITON_DISABLE_MODEL_NAMESPACING": "members of an archive are always its own.",
    "SAGEMAKER_TRITON_OVERRIDE_PING_MODE": "/ping is 200 while the server takes requests; leave it out.",
    "SAGEMAKER_TRITON_TENSORFLOW_VERSION": _NO_NEED,
    "SAGEMAKER_TRITON_MODEL_LOAD_GPU_LIMIT": "a load is reserved on its GPU: set WHARF_DEVICE_HEADROOM.",
    "SAGEMAKER_TRITON_INFERENCE_TYPE": "call /v2/models/NAME/generate, or set nothing to infer.",
    "SAGEMAKER_TRITON_LOG_INFO": "set WHARF_LOG_LEVEL instead.",
    "SAGEMAKER_TRITON_LOG_WARNING": "set WHARF_LOG_LEVEL instead.",
    "SAGEMAKER_TRITON_LOG_ERROR": "set WHARF_LOG_LEVEL instead.",
    "SAGEMAKER_TFS_INSTANCE_COUNT": "set min_workers in a model's wharf.toml instead.",
    "SAGEMAKER_TFS_WAIT_TIME_SECONDS": "set WHARF_LOAD_TIMEOUT instead.",
    "SAGEMAKER_TFS_INTER_OP_PARALLELISM": _THREADS,
    "SAGEMAKER_TFS_INTRA_OP_PARALLELISM": _THREADS,
    "SAGEMAKER_TFS_ENABLE_BATCHING": "batch_size in a model's wharf.toml joins the rows of requests that wait.",
    "SAGEMAKER_TFS_MAX_BATCH_SIZE": _QUEUE,
    "SAGEMAKER_TFS_BATCH_TIMEOUT_MICROS": _QUEUE,
    "SAGEMAKER_TFS_NUM_BATCH_THREADS": "set min_workers and max_workers in a model's wharf.toml instead.",
    "SAGEMAKER_TFS_MAX_ENQUEUED_BATCHES": "set WHARF_WORKER_QUEUE instead.",
    "SAGEMAKER_TFS_FRACTIONAL_GPU_MEM_MARGIN": _NO_NEED,
    "SAGEMAKER_TFS_NGINX_LOGLEVEL": "set WHARF_LOG_LEVEL instead.",
}


def instead_of(name: str) -> str:
    """Return what to do instead of setting a variable, empty for one that is not known."""
    return _INSTEAD.get(name, "")
