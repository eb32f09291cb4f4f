"""Where people's code raised an exception: the frames of it that are theirs, as Triton's Python backend writes them.

    /models/NAME/1/model.py(14): execute

What lies between us and their code (the import system, an event loop) is nobody's, and the modules that stand in for
others' (`compat`) are ours. Knows no model; `main` tells a load that failed by it, `dialects/triton_faults` a request.
Standard library alone, CPython 3.9 on.
"""

from __future__ import annotations

import importlib
import os
import traceback

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120  as frames have it, in text
_COMPAT = _HERE + "compat" + os.sep
# Nobody reads more of either.
_PLACES_MAX, _PLACE_MAX_CHARS = 16, 500


def places(error: BaseException) -> list[str]:
    """Return a line for each frame of people's code, the innermost first."""
    walked = traceback.walk_tb(error.__traceback__)
    frames = [(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in walked]
    ours = [index for index, (file, _, _) in enumerate(frames) if file.startswith(_HERE) and not _stands_in(file)]
    after_us = frames[ours[-1] + 1 if ours else 0 :]
    theirs = [each for each in after_us if not _stands_in(each[0]) and not _imports(each[0])]
    return [f"{file}({line}): {name}"[:_PLACE_MAX_CHARS] for file, line, name in reversed(theirs[-_PLACES_MAX:])]


def _stands_in(file: str) -> bool:
    return file.startswith(_COMPAT)


def _imports(file: str) -> bool:
    return file == importlib.__file__ or file.startswith("<frozen importlib")
