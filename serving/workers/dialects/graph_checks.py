"""What is wrong with a SavedModel, in words: tags, operations, variables; and what of it is unsafe.

TensorFlow's own messages for these are pages long, or come at the first request. Knows graphs as protobufs;
`savedmodel` asks before and after it loads one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

from serving.workers.handler import HandlerError, Launch

_log = logging.getLogger(__name__)

_LISTED_MAX = 8
_VARIABLES = frozenset(("VarHandleOp", "Variable", "VariableV2"))

UNSAFE = frozenset(
    (
        *("ReadFile", "WriteFile", "MatchingFiles", "SaveV2", "Save", "SaveSlices", "MergeV2Checkpoints"),
        *("PrintV2", "DebugIdentity", "DebugIdentityV2", "FixedLengthRecordReaderV2", "TextLineReaderV2"),
        *("TFRecordReaderV2", "WholeFileReaderV2", "DeleteFileV2", "RpcClient", "RpcCall"),
    )
)
"""Operations that touch files or the network by what a request says, and people seldom mean to serve (TensorFlow's own
SECURITY.md names reading and writing files)."""

_PYTHON = frozenset(("PyFunc", "PyFuncStateless", "EagerPyFunc"))


def tags_of(loader: Any, launch: Launch) -> list[str]:
    """Return the tags of the graph to load: the option `tags`, else "serve".

    Raises `HandlerError` that lists those that there are.
    """
    wanted = [each.strip() for each in launch.options.get("tags", "serve").split(",") if each.strip()]
    found = [sorted(meta.meta_info_def.tags) for meta in loader.saved_model.meta_graphs]
    if sorted(wanted) not in found:
        raise HandlerError(
            f"The SavedModel of '{launch.name}' has graphs with the tags {found} and {wanted} is wanted: save it with "
            "the tag 'serve', or name its tags (option tags)."
        )
    return wanted


def check_graph(tf: Any, meta: Any, folder: str, launch: Launch) -> None:
    """Raise `HandlerError` for operations that TensorFlow has not and for variables without their files.

    Says which operations touch files.
    """
    _load_libraries(tf, launch)
    kinds = set(_operations(meta.graph_def))
    functions = {each.signature.name for each in meta.graph_def.library.function}
    unknown = sorted(kind for kind in kinds - functions if not _is_known(kind))
    if unknown:
        raise HandlerError(
            f"Model '{launch.name}' has operations that TensorFlow {tf.__version__} does not know: "
            f"{_listed(unknown)}. They are custom ones or of another version: put their library beside the model and "
            "name it (option op_libraries), or export the model without them."
        )
    if in_python := sorted(kinds & _PYTHON):
        raise HandlerError(
            f"Model '{launch.name}' calls Python inside its graph ({_listed(in_python)}), which a SavedModel does not "
            "carry: export it with TensorFlow's own operations."
        )
    if kinds & _VARIABLES and not os.path.isfile(os.path.join(folder, "variables", "variables.index")):  # noqa: PTH113, PTH118
        raise HandlerError(
            f"Model '{launch.name}' has variables and its SavedModel no variables/variables.index: copy the whole "
            "folder."
        )
    # The first graph operations of a session that restores: they are there to save, and nobody can call them.
    if unsafe := sorted((kinds - _saving(meta)) & UNSAFE):
        _log.warning(
            "Model '%s' has operations that reach files, the network or the log: %s: serve it only if you trust who "
            "made it",
            *(launch.name, _listed(unsafe)),
        )


def check_restored(tf: Any, session: Any, launch: Launch) -> None:
    """Raise `HandlerError` for variables that the files had no values for."""
    with session.graph.as_default():
        names = session.run(tf.compat.v1.report_uninitialized_variables())
    if len(names):
        shown = _listed(sorted(each.decode() for each in names))
        raise HandlerError(
            f"Model '{launch.name}' has variables without values after its load: {shown}: export it again."
        )


def _load_libraries(tf: Any, launch: Launch) -> None:
    for name in launch.options.get("op_libraries", "").split(","):
        if name.strip():
            try:
                tf.load_op_library(os.path.join(launch.folder, name.strip()))  # noqa: PTH118
            except Exception as error:
                raise HandlerError(
                    f"The library '{name.strip()}' of model '{launch.name}' cannot be loaded: {str(error)[:200]}"
                ) from None


def _operations(graph: Any) -> Iterator[str]:
    yield from (node.op for node in graph.node)
    for function in graph.library.function:
        yield from (node.op for node in function.node_def)


def _is_known(kind: str) -> bool:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(kind) is not None


def _saving(meta: Any) -> set[str]:
    """Return the operations that every SavedModel has to save itself again, unless they are called elsewhere too."""
    used: set[str] = set()
    for function in meta.graph_def.library.function:
        if "save" not in function.signature.name:
            used.update(node.op for node in function.node_def)
    used.update(node.op for node in meta.graph_def.node if not node.name.startswith(("save/", "save_", "Save")))
    return {"SaveV2", "MergeV2Checkpoints", "Save", "SaveSlices"} - used


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED_MAX
    return ", ".join(names[:_LISTED_MAX]) + (f" and {more} more" if more > 0 else "")
