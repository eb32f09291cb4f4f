"""What goes wrong in a model of Triton's Python backend: its codes, and its exceptions as Triton's clients know them.

Failed to process the request(s) for model 'NAME_0', message: ValueError: no

    At:
      /models/NAME/1/model.py(14): execute

The frames are the model's own, the innermost first. Pure functions that know no request; runs under foreign
interpreters; `triton_python` calls it.
"""

from __future__ import annotations

import traceback

# By TRITONSERVER_Error_Code. Triton's own, but for INTERNAL: that is Triton's default and the model's fault, hence 424.
STATUSES = {0: 400, 1: 424, 2: 404, 3: 400, 4: 503, 5: 501, 6: 400, 7: 400}
# Those of the codes whose status says nothing of them.
NAMES = {0: "UNKNOWN", 6: "ALREADY_EXISTS", 7: "CANCELLED"}
# Of an exception: what it says, and how many frames of where it was raised.
_SAID_MAX_CHARS, _FRAMES_MAX = 1000, 16


class NoAnswerError(Exception):
    """What `execute` returned is no answer; the text is Triton's, and needs no frames."""


def is_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch's and CuPy's own errors are no MemoryError."""
    return any(each.__name__ in ("MemoryError", "OutOfMemoryError") for each in type(error).__mro__)


def told(error: Exception, instance: str, caller: str) -> str:
    """Return what Triton says when `execute` of an instance raised; frames down to the file `caller` are ours."""
    return f"Failed to process the request(s) for model '{instance}', message: {_told(error, caller)}"


def _told(error: Exception, caller: str) -> str:
    try:
        said = str(error)[:_SAID_MAX_CHARS]
    except Exception:  # an exception whose own __str__ fails
        said = ""
    if isinstance(error, NoAnswerError):
        return said
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    ours = [index for index, (code, _) in enumerate(frames) if code.co_filename == caller]
    theirs = frames[ours[-1] + 1 if ours else 0 :][-_FRAMES_MAX:]
    at = "".join(f"  {code.co_filename}({line}): {code.co_name}\n" for code, line in reversed(theirs))
    return f"{type(error).__name__}: {said or '<EMPTY MESSAGE>'}" + (f"\n\nAt:\n{at}" if at else "")
