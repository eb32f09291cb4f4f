"""People's script, imported, and their functions, called as they were written: with the context or without it.

Knows how a file becomes a module that its siblings can import too, and how to tell from a signature whether a function
takes the optional last argument `context`. It does not know what the functions are for: `sagemaker` and `tensorflow`
say which names and arguments their contracts have.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

_signature = inspect.signature
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def import_script(file: str) -> ModuleType:
    """Import `file` under its own stem, as the toolkit does, so that siblings and pickles find its names there.

    Its `__main__` block does not run. What the script raises passes through; raises `ValueError` for a file that is
    no Python source.
    """
    name = Path(file).stem.replace(".", "_")
    if name in sys.modules:  # a script called numpy.py or json.py must not become everyone's numpy
        name = f"script_{name}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"The script '{file}' is no Python source: name a file that ends in .py in SAGEMAKER_PROGRAM.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def defined(module: ModuleType, name: str) -> Callable[..., Any] | None:
    """Return the function `name` of the script, None where it has none; raises `ValueError` for what is no function."""
    function = getattr(module, name, None)
    if function is None or callable(function):
        return function
    raise ValueError(f"{name} of '{module.__file__}' is a {type(function).__name__}: make it a function.")


def fitted(function: Callable[..., Any], name: str, arguments: tuple[str, ...], context: Any) -> Callable[..., Any]:
    """Return a function of exactly `arguments` that adds `context` where `function` takes it.

    It takes it 1. by position, as one parameter more than `arguments` that has no default or whose name speaks of a
    context; 2. by keyword, as a keyword-only parameter `context`. `*args` and other parameters with defaults are left
    alone. Raises `ValueError` that names what the function takes and what it is called with, where the two cannot meet.
    """
    try:
        signature = _signature(function)
    except (TypeError, ValueError):  # some builtins tell no signature: they know no context either
        return function
    if _has_extra(signature, len(arguments)):
        _check(signature, name, (*arguments, "context"), {})
        return lambda *values: function(*values, context)
    keyword = signature.parameters.get("context")
    if keyword is not None and keyword.kind is inspect.Parameter.KEYWORD_ONLY:
        _check(signature, name, arguments, {"context": context})
        return lambda *values: function(*values, context=context)
    _check(signature, name, arguments, {})
    return function


def _has_extra(signature: inspect.Signature, count: int) -> bool:
    placed = [each for each in signature.parameters.values() if each.kind in _BY_POSITION]
    if len(placed) <= count:
        return False
    extra = placed[count]
    return extra.default is extra.empty or extra.name.strip("_").lower() in ("context", "ctx")


def _check(signature: inspect.Signature, name: str, arguments: tuple[str, ...], keywords: dict[str, Any]) -> None:
    try:
        signature.bind(*arguments, **keywords)
    except TypeError as fault:
        called = ", ".join(each for each in arguments if each != "context")
        raise ValueError(
            f"{name}{signature} cannot be called as {name}({called}[, context]), {fault}: give it those parameters."
        ) from None
