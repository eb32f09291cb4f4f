"""What goes wrong in a model of Triton's Python backend: its codes, and its exceptions as Triton's clients know them.

Failed to process the request(s) for model 'NAME_0', message: ValueError: no

    At:
      /models/NAME/1/model.py(14): execute

The frames are the model's own (`frames`). Pure functions that know no request; runs under foreign
interpreters; `triton_python` calls it.
"""

from __future__ import annotations

from serving.workers.frames import places

# By TRITONSERVER_Error_Code. Triton's own, but for INTERNAL: that is Triton's default and the model's fault, hence 424.
STATUSES = {0: 400, 1: 424, 2: 404, 3: 400, 4: 503, 5: 501, 6: 400, 7: 400}
# Those of the codes whose status says nothing of them.
NAMES = {0: "UNKNOWN", 6: "ALREADY_EXISTS", 7: "CANCELLED"}
# Of what an exception says.
_SAID_MAX_CHARS = 1000


class NoAnswerError(Exception):
    """What `execute` returned is no answer; the text is Triton's, and needs no frames."""


def is_memory(error: BaseException) -> bool:
    """Tell whether memory ran out; torch's and CuPy's own errors are no MemoryError."""
    return any(each.__name__ in ("MemoryError", "OutOfMemoryError") for each in type(error).__mro__)


def told(error: Exception, instance: str) -> str:
    """Return what Triton says when `execute` of an instance raised."""
    return f"Failed to process the request(s) for model '{instance}', message: {_told(error)}"


def _told(error: Exception) -> str:
    try:
        said = str(error)[:_SAID_MAX_CHARS]
    except Exception:  # an exception whose own __str__ fails
        said = ""
    if isinstance(error, NoAnswerError):
        return said
    at = "".join(f"  {each}\n" for each in places(error))
    return f"{type(error).__name__}: {said or '<EMPTY MESSAGE>'}" + (f"\n\nAt:\n{at}" if at else "")
