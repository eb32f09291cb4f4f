"""Where a model lies: from a url or a name to a path inside the model repository, and never outside it.

`resolve` serves the platform, which gives a path; `locate` and `available` serve standalone mode, which knows models by
their names. Links are followed before anything is decided, and what lies outside is refused before anything of it is
read. What the path holds is for `store` and `layouts` to say.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from serving.errors import BadRequestError, ModelNotFoundError
from serving.repository.archives import SUFFIXES as ARCHIVE_SUFFIXES
from serving.repository.folders import FILE_SUFFIXES, holds_model, is_model_name, visible
from serving.repository.limits import quoted

NAME_MAX_CHARS = 1024
"""The most characters of a TargetModel (InvokeEndpoint's own limit)."""

_PATH_MAX_BYTES = 4096
_PART_MAX_BYTES = 255
"""PATH_MAX and NAME_MAX of Linux."""


def resolve(root: Path, url: str) -> Path:
    """Return the path that `url` (absolute path or file:// url) leads to, links followed.

    Raises `BadRequestError` for what is no such url or leads outside `root`, `ModelNotFoundError` for what is missing.
    """
    path = _path_of(url)
    if not path.startswith("/"):
        raise BadRequestError(f"Model url {quoted(url)} is not an absolute path: give one below {root}.")
    found = _inside(root, Path(path), quoted(url))
    if not os.path.exists(found):  # noqa: PTH110  false, not an error, where it may not be looked at
        raise ModelNotFoundError(f"Model url {quoted(url)} does not exist: check the path below {root}.")
    return found


def locate(root: Path, name: str, *, may_hint: bool = True) -> tuple[str, Path]:
    """Find a model by its name: return its canonical name and its path, links followed.

    1. exactly that path; 2. the name with an archive's suffix, 3. with a model file's; 4. without its archive's
    suffix. Raises `BadRequestError` for a name that is none or leads outside, `ModelNotFoundError` with near names
    (which cost a walk of the repository) where `may_hint` allows.
    """
    plain = _checked_name(name)
    stripped = [plain.removesuffix(suffix) for suffix in ARCHIVE_SUFFIXES if plain.endswith(suffix)][:1]
    for candidate in (plain, *(plain + suffix for suffix in (*ARCHIVE_SUFFIXES, *FILE_SUFFIXES)), *stripped):
        if os.path.lexists(root / candidate):
            path = _inside(root, root / candidate, quoted(candidate))
            if os.path.exists(path):  # noqa: PTH110  false, not an error, where it may not be looked at
                return candidate, path
    near = difflib.get_close_matches(plain, available(root), n=3, cutoff=0.5) if may_hint else []
    hint = f"did you mean {' or '.join(near)}?" if near else "GET /repository lists what there is."
    raise ModelNotFoundError(f"Model {quoted(name)} is not in the repository: {hint}")


def available(root: Path) -> list[str]:
    """List the canonical names of what lies in the repository, sorted: its entries, and those of folders of models."""
    return sorted(name for entry in visible(root) for name in _names(root, entry))


def _names(root: Path, entry: Path) -> Iterator[str]:
    if not _is_inside(root, entry):
        return
    if not entry.is_dir():
        if _is_file_of_ours(entry.name):
            yield entry.name
        return
    models = [] if holds_model(entry) else [each for each in visible(entry) if _looks_like_model(each)]
    if not models:
        yield entry.name
    for each in models:
        if _is_inside(root, each):
            yield f"{entry.name}/{each.name}"


def _looks_like_model(path: Path) -> bool:
    return holds_model(path) if path.is_dir() else _is_file_of_ours(path.name)


def _is_file_of_ours(name: str) -> bool:
    return name.endswith(ARCHIVE_SUFFIXES) or is_model_name(name)


def _path_of(url: str) -> str:
    head, colon, _ = url.partition(":")
    if "/" in head or not colon:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        raise BadRequestError(f"Model url {quoted(url)} cannot be read: give an absolute path.") from None
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise BadRequestError(
            f"Model url {quoted(url)} is not a path of this machine: give an absolute path or a file:// url."
        )
    return unquote(parts.path)


def _checked_name(name: str) -> str:
    pure = PurePosixPath(name)
    if not name.strip() or pure.is_absolute() or ".." in pure.parts or not pure.parts or len(name) > NAME_MAX_CHARS:
        raise BadRequestError(
            f"Model name {quoted(name)} is not a path below the repository: give a relative one without '..' "
            f"of at most {NAME_MAX_CHARS} characters."
        )
    _check_text(name, quoted(name))
    return str(pure)


def _inside(root: Path, path: Path, shown: str) -> Path:
    _check_text(str(path), shown)
    if not _is_inside(root, path):
        raise BadRequestError(f"Model {shown} leads outside the repository {root}: give a path below it.")
    return Path(os.path.realpath(path))


def _is_inside(root: Path, path: Path) -> bool:
    real_root = os.path.realpath(root)
    real = os.path.realpath(path)
    return real != real_root and real.startswith(real_root.rstrip("/") + "/")


def _check_text(text: str, shown: str) -> None:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise BadRequestError(f"Model {shown} is not UTF-8: rename it.") from None
    if b"\0" in raw:
        raise BadRequestError(f"Model {shown} has a NUL byte: give a path without it.")
    if len(raw) > _PATH_MAX_BYTES or any(len(part) > _PART_MAX_BYTES for part in raw.split(b"/")):
        raise BadRequestError(f"Model {shown} is too long: no part over 255 bytes, no path over 4096.")
