"""Finds an engine: an inference server of somebody else's (vLLM and its like) that a wharf.toml names by its command.

    format = "engine"
    [options]
    command = "vllm serve {folder}/weights --host 127.0.0.1 --port {port} --served-model-name {name}"
    health = "/health"        # answers 200 when the model is there
    routes = "/v1/rerank"     # what requests may name besides those that are told from their bodies

One worker owns the one process and takes any number of requests at once. `handlers` calls this room; the dialect
`engine` runs the command, `backends.engine` asks it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from serving.repository.model_folder import Found, ModelFolder

ENGINE = "engine"
_OPTIONS = ("command", "health", "routes")
# A path as http.client sends it: it has neither controls nor what is not ASCII.
_PATH = re.compile(r"/[!-~]*")


def find_engine(folder: ModelFolder) -> Found:
    """Return the handler of an engine; raises `InvalidArtifactError` for a command that cannot be one."""
    workers = folder.workers
    if unknown := sorted(set(workers.options) - set(_OPTIONS)):
        raise folder.refusal(f"its engine has the option {unknown[0]}, and known are {', '.join(_OPTIONS)}: correct it")
    command = workers.options.get("command", "")
    if "{port}" not in command:
        raise folder.refusal(
            f"the command of its engine is '{command:.80}', without {{port}}: say it in wharf.toml, as in "
            'options = { command = "vllm serve {folder} --port {port}" }'
        )
    try:
        shlex.split(command)
    except ValueError as error:
        raise folder.refusal(f"the command of its engine is '{command:.80}' ({error}): close its quotes") from error
    if bad := [each for each in routes_of(workers.options) if not _PATH.fullmatch(each)]:
        raise folder.refusal(
            f"the routes of its engine name {bad[0]!a:.80}, and a route begins with / and is visible ASCII: correct it"
        )
    for key in ("min_workers", "max_workers", "batch_size"):
        if (value := getattr(workers, key)) not in (None, 1):
            raise folder.refusal(
                f"it has {key} = {value}, and an engine is one process that takes many requests at once: "
                "take that away, and tell the engine itself"
            )
    handler = folder.handler(ENGINE, None, min_workers=1, max_workers=1)
    return Found(folder.config, handler)


def routes_of(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths that requests may name besides those that are told from their bodies."""
    return tuple(filter(None, re.split(r"[,\s]+", options.get("routes", ""))))
