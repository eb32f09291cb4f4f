"""What a .pt2 archive may hold: data, and nothing that could become code.

Knows the archive that `torch.export.save` of torch 2.8 and later writes, and every place where `torch.export.load` of
2.13 would run what it finds: it unpickles weights of unusual types, custom objects and (when the safe reader fails)
sample inputs; it loads compiled libraries; it gives shape expressions and guards to `eval`; it looks up the functions
of the graph by dotted path; it pastes names into Python source. Archives of torch 2.7 and older are pickles throughout.
All of that is refused here unless it is plainly data. What remains can call registered operators, `math` and `operator`
only, and calls them in this process: serve models of people whom you trust with that. `torch_export` calls this room.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.errors import InvalidArtifactError

_RECORD = re.compile(
    r"archive_format|archive_version|byteorder|version|\.(data|format)/.*|extra/.*"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")

# Registered operators, arithmetic and torch.sym_*; nothing that leads elsewhere by dots, underscores or call().
_TARGET = re.compile(
    r"torch\.ops\.[a-z]\w*\.(__(and|or|xor|lshift|rshift|iand|ior|ixor)__|(?!__)\w+)(\.[A-Za-z]\w*)?"
    r"|math\.[a-z]\w*|_operator\.(?!call|attrgetter|methodcaller)[a-z]\w*|torch\._?sym_[a-z]+"
)
# Names are pasted into source: without quotes, brackets, `=` and white space they cannot spell a call.
_NAME = re.compile(r"[\w.@-]*")
# Expressions are sympy's own notation, guards are comparisons of `L['x'].size()[0]`. Quoted names are set aside, then
# only these characters and words may remain; symbols are s0, u1, zuf2.
_QUOTED = re.compile(r"'[\w.+-]*'")
_SIGNS = re.compile(r"[\w\s+*/%()\[\],.<>=!&|~-]*")
_WORD = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"[a-z]{1,4}\d+")
_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    Symbol Integer Float Rational Add Mul Pow Mod Abs Max Min Piecewise Eq Ne Le Lt Ge Gt And Or Not Equality
    Unequality LessThan StrictLessThan GreaterThan StrictGreaterThan BooleanTrue BooleanFalse One Zero NegativeOne
    Half Identity FloorDiv ModularIndexing Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift
    PowByNatural FloatPow FloatTrueDiv IntTrueDiv TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat
    IsNonOverlappingAndDenseIndicator True False None positive negative nonnegative integer real finite
    extended_real zero nonzero precision prec dps oo int_oo ceiling floor sqrt L size stride storage_offset dim ndim
    item and or not is in if else math float int max min e
    """,
    )
)
_TREE = re.compile(r"[\w\s\[\]{}\":,.<>\\-]*")


def check_archive(model: str, file: Path) -> None:
    """Refuse an archive that holds anything but data.

    Raises `InvalidArtifactError` that names the record and what to do.
    """
    import torch

    try:
        # torch's own reader, so that both see the same records.
        reader = torch._C.PyTorchFileReader(str(file))
    except RuntimeError as error:
        raise InvalidArtifactError(f"Model '{model}': {file.name} is no .pt2 archive: {str(error)[:120]}") from error
    records = set(reader.get_all_records())
    for record in sorted(records):
        if not _RECORD.fullmatch(record):
            raise _refusal(model, file, f"the record '{record}'")
    if "models/model.json" not in records or not records.issuperset(_CONFIGS):
        raise InvalidArtifactError(
            f"Model '{model}': {file.name} holds no exported program: write it with torch.export.save of torch 2.8 or "
            "later."
        )
    for config in _CONFIGS:
        _check_payloads(model, file, config, json.loads(reader.get_record(config)))
    _check_samples(model, file, reader.get_record("data/sample_inputs/model.pt"))
    json.loads(reader.get_record("models/model.json"), object_hook=_node_check(model, file))


def _refusal(model: str, file: Path, what: str) -> InvalidArtifactError:
    return InvalidArtifactError(
        f"Model '{model}': {file.name} holds {what}, which could run code while it is loaded: export the model again "
        "with plain tensors and registered operators, or serve it as TorchScript or ONNX."
    )


def _check_payloads(model: str, file: Path, config: str, payloads: dict[str, Any]) -> None:
    for name, payload in payloads["config"].items():
        if payload.get("use_pickle") or not _PAYLOAD.fullmatch(payload["path_name"]):
            raise _refusal(model, file, f"the pickled tensor '{name}' ({config})")


def _check_samples(model: str, file: Path, samples: bytes) -> None:
    import torch

    try:
        if samples:
            torch.load(io.BytesIO(samples), weights_only=True)
    except Exception as error:
        raise _refusal(model, file, "sample inputs that are not plain tensors") from error


def _node_check(model: str, file: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a hook for the JSON parser that looks at every object of the graph."""

    def check(node: dict[str, Any]) -> dict[str, Any]:
        for key, is_plain in _CHECKS.items():
            if key in node:
                for text in node[key] if isinstance(node[key], list) else [node[key]]:
                    if isinstance(text, str) and not is_plain(text):
                        raise _refusal(model, file, f"the {key} {text[:80]!r}")
        return node

    return check


def _is_target(text: str) -> bool:
    return bool(_TARGET.fullmatch(text))


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text))


def _is_expression(text: str) -> bool:
    bare = _QUOTED.sub("", text)
    words = _WORD.findall(bare)
    return bool(_SIGNS.fullmatch(bare)) and all(word in _WORDS or _SYMBOL.fullmatch(word) for word in words)


def _is_tree(text: str) -> bool:
    return bool(_TREE.fullmatch(text)) and "\\u" not in text


_CHECKS: dict[str, Callable[[str], bool]] = {
    "target": _is_target,
    "as_operator": _is_target,
    "expr_str": _is_expression,
    "guards_code": _is_expression,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
    **dict.fromkeys(
        ("name", "as_name", "forward_arg_names", "field_names", "parameter_name", "buffer_name", "user_input_name",
         "tensor_constant_name", "custom_obj_name", "class_fqn", "fqn"),
        _is_name,
    ),
}  # fmt: skip
