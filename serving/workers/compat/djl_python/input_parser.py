"""The decorators that mark what a `model.py` without a `handle` function brings for input, model and prediction.

They only set an attribute; `decorated` looks for it.
"""

from __future__ import annotations

from typing import Any, TypeVar

_Function = TypeVar("_Function")


def _marked(function: Any, mark: str) -> Any:
    setattr(function, mark, True)
    return function


def input_formatter(function: _Function) -> _Function:
    """Mark the function that turns an Input into what the model takes."""
    return _marked(function, "is_input_formatter")  # type: ignore[no-any-return]


def init_handler(function: _Function) -> _Function:
    """Mark the function that loads the model: called with the model's folder."""
    return _marked(function, "is_init_handler")  # type: ignore[no-any-return]


def prediction_handler(function: _Function) -> _Function:
    """Mark the function that predicts: called with what the input formatter returned, and the model."""
    return _marked(function, "is_prediction_handler")  # type: ignore[no-any-return]
