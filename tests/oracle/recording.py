"""What the real tritonserver answered, as files beside this one, and what an answer differs by.

An observation is JSON: what a client got. The suite asks both servers the same and holds each to the recording, so that
ours is tested on machines without the oracle, and the recording is proven wherever there is one. What may differ and
why stands in `deviations`. `make test-oracle RECORD=--record` writes the files anew. The fixture `same` calls it.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recorded"
# Two answers to one question are never equal in these.
_VARIES = {"ns", "last_inference", "host", "date"}


def plain(value: Any, root: Path) -> Any:
    """Return an observation as JSON has it: bytes as base64, paths below `root` as <root>, times as <varies>."""
    if isinstance(value, dict):
        return {str(key): "<varies>" if key in _VARIES else plain(each, root) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each, root) for each in value]
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return value.replace(str(root), "<root>") if isinstance(value, str) else value


def file_of(test: str) -> Path:
    """Return the file that holds a test's recording."""
    module = test.split("::", maxsplit=1)[0].rsplit("/", 1)[-1].removesuffix(".py")
    return FOLDER / f"{module}.json"


def key_of(test: str, server: str) -> str:
    """Return a test's name without the server that it runs against: `name[triton-x]` is `name[x]`."""
    name = re.sub(rf"(?<=[\[-]){server}(-|(?=\]))", "", test.split("::", 1)[-1])
    return name.replace("-]", "]").replace("[]", "")


def read(test: str, server: str) -> Any:
    """Return what was recorded for a test."""
    file = file_of(test)
    recorded = json.loads(file.read_text()) if file.exists() else {}
    assert key_of(test, server) in recorded, f"nothing recorded for {test}: make test-oracle RECORD=--record"
    return recorded[key_of(test, server)]


def write(test: str, server: str, observed: Any) -> None:
    """Record what a test observed."""
    file = file_of(test)
    file.parent.mkdir(exist_ok=True)
    recorded = json.loads(file.read_text()) if file.exists() else {}
    recorded[key_of(test, server)] = observed
    file.write_text(json.dumps(recorded, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and a sentence for everything in which `found` is not `wanted`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in wanted | found:
            yield from differences(wanted.get(key, "<absent>"), found.get(key, "<absent>"), f"{path}.{key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, (left, right) in enumerate(zip(wanted, found, strict=True)):
            yield from differences(left, right, f"{path}[{index}]")
    elif wanted != found or type(wanted) is not type(found):
        yield path, f"{path}: tritonserver {json.dumps(wanted)}, here {json.dumps(found)}"


def is_excused(test: str, path: str, deviations: dict[str, str]) -> bool:
    """Tell whether a pattern of `deviations` matches `test-name:path`."""
    return any(fnmatch.fnmatchcase(f"{test}:{path}", _literal(pattern)) for pattern in deviations)


def _literal(pattern: str) -> str:
    return pattern.replace("[", "[[]")
