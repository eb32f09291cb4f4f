"""Whether a SavedModel is whole: its graph, and every piece of its variables.

saved_model.pb is a protobuf whose wire format is walked, so that no TensorFlow is needed and a graph with its weights
in constants is stepped over; numbers of fields are saved_model.proto's and meta_graph.proto's. Which operations it has,
and whether they are known, is said by the worker that loads it. `saved_model_layout` asks.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

from serving.errors import InvalidArtifactError
from serving.repository.folders import SAVED_MODEL_FILE, check_readable, visible
from serving.repository.formats import check_whole
from serving.repository.wire_format import fields

_META_GRAPHS = 2
_GRAPH_DEF = 2

_SHARD = re.compile(r"variables\.data-(\d{5})-of-(\d{5})")


def check_saved_model(name: str, folder: Path, within: Path) -> None:
    """Look at the SavedModel in `folder`, of model `name`, whose files must lie, links followed, inside `within`.

    Raises `InvalidArtifactError` for a graph that is none or cut short, and for variables of which a part is missing.
    """
    for file in _files(folder):
        check_readable(file, within)
    graph = folder / SAVED_MODEL_FILE
    check_whole(name, graph)
    if not _has_graph(name, graph):
        raise InvalidArtifactError(
            f"Model '{name}' cannot be served: '{graph.name}' is no SavedModel (it holds no graph): export it again."
        )
    _check_variables(name, folder / "variables")


def _files(folder: Path) -> Iterator[Path]:
    yield from (folder, folder / SAVED_MODEL_FILE)
    for part in ("variables", "assets"):
        if (folder / part).is_dir():
            yield from (folder / part, *visible(folder / part))


def _has_graph(name: str, file: Path) -> bool:
    try:
        with file.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
            metas = [span for number, *span in fields(data, 0, len(data)) if number == _META_GRAPHS]
            return any(number == _GRAPH_DEF for start, end in metas for number, *_ in fields(data, start, end))
    except (ValueError, IndexError) as error:
        raise InvalidArtifactError(
            f"Model '{name}' cannot be served: '{file.name}' is no SavedModel, or cut short ({error}): copy it again."
        ) from error


def _check_variables(name: str, folder: Path) -> None:
    """Refuse a folder of variables that lacks its index or one of its pieces; a model of constants has none."""
    found = {file.name for file in visible(folder)} if folder.is_dir() else set()
    shards = [match for each in found if (match := _SHARD.fullmatch(each))]
    wanted = {"variables.index"} if found else set()
    for match in shards:
        wanted |= {f"variables.data-{number:05}-of-{match[2]}" for number in range(int(match[2]))}
    if "variables.index" in found and not shards:
        wanted.add("variables.data-00000-of-00001")
    if missing := sorted(wanted - found):
        raise InvalidArtifactError(
            f"Model '{name}' cannot be served: its SavedModel lacks variables/{missing[0]}: copy the whole folder."
        )
    for each in sorted(wanted):
        check_whole(name, folder / each)
