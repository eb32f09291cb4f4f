"""Every setting: its environment variable, its default, its reason.

Read once in `server.py` from an injected mapping and passed down as a frozen value; no other room looks at the
environment. SageMaker's own names come first, then `WHARF_*`. docs/settings.md is generated from the sentences here. A
value that cannot be read (`setting_values` does that) is an error that names the variable, the value and what was
wanted; an unknown `WHARF_*` name is warned about.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from serving.contract import INVOKE_BODY_MAX_BYTES
from serving.errors import BadRequestError
from serving.foreign_variables import instead_of
from serving.setting_values import (
    Share,
    one_of,
    parse_budget,
    parse_bytes,
    parse_bytes_or_off,
    parse_count,
    parse_flag,
    parse_log_level,
    parse_names,
    parse_port,
    parse_port_range,
    parse_seconds,
    parse_token,
)

# What only tells a container where it runs, or is read by the other verbs, `repository` or people's own code.
_READ_ELSEWHERE = {"WHARF_URL", "SAGEMAKER_REGION", "SAGEMAKER_PROGRAM", "SAGEMAKER_SUBMIT_DIRECTORY"}


class SettingError(BadRequestError):
    """A variable of the environment that cannot be read."""


def _setting(
    default: Any, wanted: str, parse: Callable[[str], Any], *env: str | tuple[str, Callable[[str], Any]]
) -> Any:
    sources = tuple(each if isinstance(each, tuple) else (each, parse) for each in env)
    return field(default=default, metadata={"sources": sources, "wanted": wanted})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings; a sentence under each is its reference."""

    host: str = _setting("0.0.0.0", "an address", str, "WHARF_HOST")  # noqa: S104  the platform calls from outside
    """Address to listen on; the platform calls from another address, so loopback would fail there."""

    port: int = _setting(8080, "a port, 0 to 65535", parse_port, "SAGEMAKER_BIND_TO_PORT", "WHARF_PORT")
    """Port of the HTTP server; 0 takes a free one and prints it."""

    safe_port_range: tuple[int, int] | None = _setting(
        None, "two ports like 25000-25999", parse_port_range, "SAGEMAKER_SAFE_PORT_RANGE"
    )
    """Ports that any second listener must lie in; checked against WHARF_GRPC_PORT."""

    grpc_port: int | None = _setting(None, "a port, 0 to 65535", parse_port, "WHARF_GRPC_PORT")
    """Port of V2 over gRPC, off unless set; 0 takes a free one, which the log names."""

    http_server: str = _setting("granian", "granian or gunicorn", one_of("granian", "gunicorn"), "WHARF_HTTP_SERVER")
    """HTTP server: granian costs the least CPU a request, gunicorn is what many operators know."""

    is_platform: bool = _setting(False, "true or false", parse_flag, "SAGEMAKER_MULTI_MODEL")
    """Platform mode.

    Models come and go only by the platform's calls; nothing is evicted, a load that does not fit gets 507.
    """

    model_root: Path = _setting(Path("/opt/ml/models"), "a folder", Path, "WHARF_MODEL_ROOT")
    """The model repository; nothing outside it is loaded and nothing is ever written below it."""

    base_dir: Path = _setting(Path("/opt/ml"), "a folder", Path, "SAGEMAKER_BASE_DIR")
    """SageMaker's folder; `<base_dir>/model` holds the one model of a single-model endpoint."""

    default_model: str | None = _setting(
        None,
        "a model's name",
        str,
        "SAGEMAKER_TRITON_DEFAULT_MODEL_NAME",
        "SAGEMAKER_TFS_DEFAULT_MODEL_NAME",
        "WHARF_DEFAULT_MODEL",
    )
    """Model of /invocations without a Target-Model header (and without tfs-model-name in its custom attributes).

    Else the single model, else the only one of the repository. Where a single-model endpoint's folder is a repository
    of several models, as Triton's container wants it, it names the one to serve.
    """

    default_accept: str = _setting(
        "application/json", "a media type", str, "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "WHARF_DEFAULT_ACCEPT"
    )
    """What a request without Accept (or with */*) gets."""

    memory_budget: int | Share = _setting(
        Share(80.0), "bytes, 512MiB, 4GiB or 80%", parse_budget, "WHARF_MEMORY_BUDGET"
    )
    """Memory: bytes are for models alone, percent of the cgroup limit (else of RAM) also pay for the server."""

    cores: float | None = _setting(None, "a number above 0", parse_seconds, "WHARF_CPU_CORES")
    """Cores shared by all models; unset: the cgroup's CPU quota, else the processors this process may use."""

    device: str = _setting("cpu", "cpu, cuda or auto", one_of("cpu", "cuda", "auto"), "WHARF_DEVICE")
    """Where models run that do not say it themselves; auto: cuda where there is a GPU. docs/gpu.md says what ran."""

    pinned_memory_bytes: int = _setting(64 << 20, "bytes, 64MiB", parse_bytes, "WHARF_PINNED_MEMORY")
    """Page-locked host memory for copies to and from each GPU: buffers of 4 MiB, taken when first needed."""

    device_headroom: int | Share = _setting(Share(10.0), "bytes, 2GiB or 10%", parse_budget, "WHARF_DEVICE_HEADROOM")
    """What of each GPU models may not hold: batches take it while they run. AWS' own measurement left 10 % free, too.

    CUDA contexts, and what is in use at the start, come on top.
    """

    device_give_back_s: float = _setting(5.0, "seconds", parse_seconds, "WHARF_DEVICE_GIVE_BACK")
    """Longest wait of an unload for a GPU's bytes (drivers take milliseconds); what is missing then is logged."""

    fast_math: bool = _setting(True, "true or false", parse_flag, "WHARF_FAST_MATH")
    """Let libraries multiply fp32 in bf16 on Arm CPUs that have it (Graviton3 on): results move by up to 1e-2."""

    cache_dir: Path = _setting(Path("/tmp/wharf"), "a folder", Path, "WHARF_CACHE_DIR")  # noqa: S108  created 0700
    """Where archives are unpacked; content-addressed, may be deleted between runs."""

    disk_budget_bytes: int = _setting(10 << 30, "bytes, 512MiB, 10GiB", parse_bytes, "WHARF_DISK_BUDGET")
    """Disk for unpacked archives; the least recently used make room. Half of a small SageMaker volume."""

    unpack_max_bytes: int = _setting(20 << 30, "bytes, 512MiB, 20GiB", parse_bytes, "WHARF_UNPACK_MAX_BYTES")
    """Largest sum of files that one archive may unpack to; stops a bomb that lies about its size."""

    unpack_max_files: int = _setting(10_000, "a count", parse_count, "WHARF_UNPACK_MAX_FILES")
    """Most members of one archive; an inode bomb costs more than its bytes."""

    unpack_max_ratio: int = _setting(200, "a number above 0", parse_count, "WHARF_UNPACK_MAX_RATIO")
    """Largest unpacked:packed ratio. Weights compress at most some 10:1, zeros in a bomb 1,000:1."""

    max_body_bytes: int = _setting(
        INVOKE_BODY_MAX_BYTES,
        "bytes, 6MiB",
        parse_bytes,
        "SAGEMAKER_MAX_REQUEST_SIZE",
        ("SAGEMAKER_MAX_PAYLOAD_IN_MB", lambda text: parse_bytes(f"{int(text)}m")),
        "MAX_CONTENT_LENGTH",
        "WHARF_MAX_BODY_BYTES",
    )
    """Largest request body; InvokeEndpoint's own limit is 6 MiB, batch transform may send up to 100 MiB."""

    body_memory: int | Share = _setting(Share(10.0), "bytes, 64MiB or 10%", parse_budget, "WHARF_BODY_MEMORY")
    """Memory for request bodies in flight (percent: of the limit); past it the answer is 503, the body unread.

    As much again for tensors that are read from clients' shared memory.
    """

    max_in_flight: int = _setting(240, "a count", parse_count, "WHARF_MAX_IN_FLIGHT")
    """Invocations at once; past it the answer is 503 at once. Each one holds a thread (and mostly waits)."""

    request_timeout_s: float = _setting(
        60.0, "seconds", parse_seconds, "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS", "WHARF_REQUEST_TIMEOUT"
    )
    """Longest wait of an invocation for its model, room or cores; the platform gives up after 60 s."""

    load_timeout_s: float = _setting(360.0, "seconds", parse_seconds, "SAGEMAKER_STARTUP_TIMEOUT", "WHARF_LOAD_TIMEOUT")
    """Longest wait of a load call for a load; the platform gives up after 360 s. The load itself goes on."""

    load_concurrency: int = _setting(4, "a count", parse_count, "WHARF_LOAD_CONCURRENCY")
    """Loads at once; more only fight for the disk and hold more transient memory."""

    drain_timeout_s: float = _setting(300.0, "seconds", parse_seconds, "WHARF_DRAIN_TIMEOUT")
    """Longest wait of an unload for requests in flight; the platform waits 360 s."""

    shutdown_timeout_s: float = _setting(8.0, "seconds", parse_seconds, "WHARF_SHUTDOWN_TIMEOUT")
    """Longest drain after SIGTERM; `docker stop` kills after 10 s, SageMaker after 30 s."""

    preload: tuple[str, ...] = _setting(
        ("numpy", "torch", "torch._dynamo", "sklearn.ensemble", "joblib", "transformers.modeling_utils"),
        "names of modules, with commas",
        parse_names,
        "WHARF_PRELOAD",
    )
    """Modules that the zygote imports, where installed, before it forks workers: once for all models.

    All of them take 2.7 s and 360 MiB; torch alone 0.7 s and 180 MiB. torch imports `torch._dynamo` itself, 0.6 s late,
    when a model is made on its meta device.
    """

    warm_workers: bool = _setting(False, "true or false", parse_flag, "WHARF_WARM_WORKERS")
    """Start the zygote with the server: the first model that needs Python does not wait for its imports."""

    min_workers: int = _setting(
        1, "a count", parse_count, "WHARF_MIN_WORKERS", "SERVING_MIN_WORKERS", "SAGEMAKER_NUM_MODEL_WORKERS"
    )
    """Workers of a model that needs Python, unless its own configuration says otherwise."""

    max_workers: int = _setting(
        2, "a count", parse_count, "WHARF_MAX_WORKERS", "SERVING_MAX_WORKERS", "SAGEMAKER_MODEL_SERVER_WORKERS"
    )
    """Workers that such a model may grow to while requests wait and the budget has room (DJL's own number)."""

    worker_idle_s: float = _setting(60.0, "seconds", parse_seconds, "WHARF_WORKER_IDLE", "SERVING_MAX_IDLE_TIME")
    """Workers beyond the least number end after so long without a request (DJL's max_idle_time)."""

    worker_queue: int = _setting(1000, "a count", parse_count, "WHARF_WORKER_QUEUE", "SERVING_JOB_QUEUE_SIZE")
    """Requests that may wait for one model's workers; past it the answer is 503 (DJL's job_queue_size)."""

    worker_deaths: int = _setting(5, "a count", parse_count, "WHARF_WORKER_DEATHS")
    """Deaths in a row, without one answer between them, after which a model is withdrawn with the reason."""

    worker_ping_s: float = _setting(10.0, "seconds", parse_seconds, "WHARF_WORKER_PING")
    """How often a worker that has nothing to do is asked whether it lives: some 0.2 ms of CPU each time."""

    worker_ping_timeout_s: float = _setting(30.0, "seconds", parse_seconds, "WHARF_WORKER_PING_TIMEOUT")
    """An idle worker that does not answer for so long hangs, and is replaced. A shorter predict timeout counts instead.

    Its own threads may hold the GIL that long, and a handler's work after its answer take that long.
    """

    worker_memory_bytes: int = _setting(0, "bytes, 512MiB, 4GiB", parse_bytes, "WHARF_WORKER_MEMORY")
    """Address space of one worker (RLIMIT_AS); 0 is no limit. torch alone maps several GiB that it never touches."""

    worker_processes: int = _setting(256, "a count", parse_count, "WHARF_WORKER_PROCESSES")
    """Processes and threads that one worker may start; a fork bomb ends here. 64 cores' thread pools fit."""

    worker_files: int = _setting(4096, "a count", parse_count, "WHARF_WORKER_FILES")
    """Files that one worker may hold open."""

    max_reply_bytes: int = _setting(64 << 20, "bytes, 64MiB", parse_bytes, "WHARF_MAX_REPLY_BYTES")
    """Largest answer of a worker, held whole in memory (DJL's max_output_size); what is streamed has no limit."""

    install_requirements: bool = _setting(False, "true or false", parse_flag, "WHARF_INSTALL_REQUIREMENTS")
    """Install a model's requirements.txt into an environment of its own; else it runs with what the image has."""

    admin_token: str | None = _setting(None, "a secret", parse_token, "WHARF_ADMIN_TOKEN")
    """Token that management routes want as a Bearer token. Ignored in platform mode, as the platform sends none."""

    load_files: bool = _setting(False, "true or false", parse_flag, "WHARF_LOAD_FILES")
    """Take files that come with a V2 load (`file:1/model.py`): who may load then runs code of their own here."""

    log_level: str = _setting(
        "info",
        "debug, info, warning, error, critical",
        parse_log_level,
        "SAGEMAKER_CONTAINER_LOG_LEVEL",
        "WHARF_LOG_LEVEL",
        ("SAGEMAKER_TRITON_LOG_VERBOSE", lambda text: "info" if text.strip().lower() in ("0", "false") else "debug"),
    )
    """Least level of log lines."""

    log_format: str = _setting("text", "text or json", one_of("text", "json"), "WHARF_LOG_FORMAT")
    """key=value text or one JSON object a line."""

    access_log: str = _setting("all", "all, errors or off", one_of("all", "errors", "off"), "WHARF_ACCESS_LOG")
    """Which requests get a line; polls of /ping and GET /models never do unless they fail."""

    shared_memory: bool = _setting(False, "true or false", parse_flag, "WHARF_SHARED_MEMORY")
    """Let V2 clients register system shared memory: whoever may do so reads and writes what lies in /dev/shm."""

    tritonserver: Path | None = _setting(None, "a file", Path, "WHARF_TRITONSERVER")
    """A tritonserver that runs what we cannot (TensorRT, FIL, DALI, ...): our child, started with the first such model.

    Unset: the one of NVIDIA's images, /opt/tritonserver/bin/tritonserver, where there is one.
    """

    triton_backends: tuple[str, ...] = _setting(
        (), "names of Triton's backends, with commas", parse_names, "WHARF_TRITON_BACKENDS"
    )
    """Backends (python, onnxruntime, ...) whose models tritonserver runs though we could run them here."""

    triton_shared_bytes: int = _setting(32 << 20, "bytes, or off", parse_bytes_or_off, "WHARF_TRITON_SHARED_MEMORY")
    """What tritonserver shares with us at most, in /dev/shm, for large tensors; they go by gRPC where that is full.

    Never more than a quarter of /dev/shm, which tritonserver's Python backend needs, too.
    """

    fake_backend: bool = _setting(False, "true or false", parse_flag, "WHARF_FAKE_BACKEND")
    """Serve folders with a fake.json: a small real backend with a byte meter, for load tests."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read settings from `env`; an empty value counts as unset. Raises `SettingError`."""
        return cls(**{each.name: value for each in fields(cls) if (value := _read(each, env)) is not None})

    def check(self) -> None:
        """Raise `SettingError` where two settings contradict each other."""
        if self.grpc_port and self.safe_port_range:
            low, high = self.safe_port_range
            if not low <= self.grpc_port <= high:
                raise SettingError(
                    f"WHARF_GRPC_PORT is {self.grpc_port} and SAGEMAKER_SAFE_PORT_RANGE allows {low}-{high}: "
                    "choose one inside."
                )


def unknown_settings(env: Mapping[str, str]) -> list[str]:
    """Return a sentence for each `WHARF_*` or `SAGEMAKER_*` variable that nothing reads: none is ignored in silence."""
    known = {name for each in fields(Settings) for name, _ in each.metadata["sources"]} | _READ_ELSEWHERE
    sentences = []
    for name in sorted(name for name in env if name.startswith("WHARF_") and name not in known):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "docs/settings.md lists all settings."
        sentences.append(f"Setting {name} does not exist and has no effect: {hint}")
    others = sorted(name for name in env if name.startswith("SAGEMAKER_") and name not in known)
    return sentences + [f"Variable {name} has no effect{_instead(name)}" for name in others]


def _instead(name: str) -> str:
    advice = instead_of(name)
    return f": {advice}" if advice else " in this version."


def _read(each: Any, env: Mapping[str, str]) -> Any:
    for name, parse in each.metadata["sources"]:
        text = env.get(name, "")
        if not text.strip():
            if "TOKEN" in name and name in env:  # routes that somebody meant to close must not stay open in silence
                raise SettingError(f"Setting {name} is empty: give it a secret or unset it.")
            continue
        try:
            return parse(text)
        except (ValueError, KeyError, OverflowError):
            shown = "(hidden)" if "TOKEN" in name else repr(text)
            raise SettingError(f"Setting {name} has value {shown} and wants {each.metadata['wanted']}.") from None
    return None
