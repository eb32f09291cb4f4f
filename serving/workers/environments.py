"""What a model needs beside the image: the packages of its requirements.txt, or an environment of its own.

Both lie in folders named by what is in them, are made once however many models want them, and go with the last one.
A requirements.txt is met in this order:

1. Every line holds in the running interpreter already: nothing is done.
2. Installing is not allowed: a warning names the lines, and the model runs with what the image has.
3. pip tells what the image lacks (a dry run, which sees what is installed), then installs just that into a folder: a
   bare `--target` would bring a second torch along with all that needs one.

`packed_environment` knows interpreters and archives. The worker backend opens an environment before a model's first
worker starts. One process owns the folder, by a lock that ends with the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from serving.errors import InvalidArtifactError, LoadFailedError
from serving.logs import quoted
from serving.repository.handler_spec import HandlerSpec
from serving.repository.limits import UnpackLimits
from serving.workers import packed_environment as packed
from serving.workers.packed_environment import Environment, SharedFolders, digest_of

__all__ = ["Environment", "Environments"]

log = logging.getLogger("wharf.environments")

_FILES_MAX = 300_000
"""Files of one packed environment: one with PyTorch has some 50,000, and a model's own limit is 10,000."""

_LAST_LINES = 5
_LAST_LINES_MAX_CHARS = 600
"""pip's reason is in its last lines; an error's message has room for 1,000 characters."""

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_PATH_OPTIONS = {"-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-f": "--find-links"}
_QUIET = ("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--no-color", "--root-user-action=ignore")

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
"""pip's own form of a variable in a requirements file."""


class Environments:
    """All environments of one server, below `folder`; methods may be called from any thread."""

    def __init__(
        self, folder: Path, *, may_install: bool, timeout_s: float, limits: UnpackLimits | None = None
    ) -> None:
        limits = limits or UnpackLimits()
        self._limits = replace(limits, max_files=max(limits.max_files, _FILES_MAX))
        self._may_install = may_install
        self._timeout_s = timeout_s
        self._shared = SharedFolders(folder)
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._digests: dict[tuple[Path, int, int], str] = {}

    def open(self, spec: HandlerSpec, model: str = "") -> Environment:
        """Return what `spec` needs, made now if no other model has it; `model` is its name in log lines.

        Raises `InvalidArtifactError` for what cannot work (an interpreter for another machine, a path that leads out of
        the model's folder), `LoadFailedError` with pip's last lines, or for the time or the disk that it ran out of.
        """
        model = model or spec.folder.name
        if spec.python is not None:
            if spec.requirements is not None:
                self._warn(model, spec.requirements, "the model brings an environment of its own", "install them in it")
            return self._open_python(spec, spec.python)
        if spec.requirements is None:
            return Environment(spec.paths)
        return self._open_requirements(spec, spec.requirements, model)

    def close(self) -> None:
        """Give the folder to the next owner; what models hold still stays."""
        self._shared.close()

    def _open_python(self, spec: HandlerSpec, python: Path) -> Environment:
        kind = packed.packed_kind(python)
        if kind is None:
            found = packed.find_interpreter(python)
            return Environment(spec.paths, (), found.python, found.environ)

        def make(place: Path) -> None:
            with self._shared.beside(place) as work:
                packed.unpack_environment(python, kind, work, self._limits)
                work.rename(place)
            packed.relocate(place, self._timeout_s)  # writes its place into its files, so it must have it

        key = f"packed-{self._digest_of(python)}"
        with contextlib.ExitStack() as held:
            place = held.enter_context(self._shared.hold(key, make))
            found = packed.find_interpreter(place, python)
            environment = Environment(spec.paths, (), found.python, found.environ)
            environment.held = held.pop_all()
        return environment

    def _digest_of(self, archive: Path) -> str:
        """Return the digest of the bytes, which are read once as long as size and time stay."""
        stat = archive.stat()
        identity = (archive, stat.st_size, stat.st_mtime_ns)
        if identity not in self._digests:
            self._digests[identity] = digest_of(archive)
        return self._digests[identity]

    def _open_requirements(self, spec: HandlerSpec, file: Path, model: str) -> Environment:
        try:
            asked = _Asked.read(file, spec.folder)
            missing = asked.missing()
        except InvalidArtifactError as error:
            if self._may_install:
                raise
            missing = [error.message]
        if missing and not self._may_install:
            hint = "it runs with what the image has; set WHARF_INSTALL_REQUIREMENTS=1 to install them"
            self._warn(model, file, "the image lacks " + ", ".join(missing), hint)
        if not missing or not self._may_install:
            return Environment(spec.paths)

        def make(place: Path) -> None:
            log.info("event=installing_requirements model=%s packages=%d", quoted(model), len(missing))
            began = time.monotonic()
            with self._shared.beside(place) as work:
                _Installation(asked, work, model, self._timeout_s).run().rename(place)
            log.info("event=installed_requirements model=%s duration_s=%.1f", quoted(model), time.monotonic() - began)

        environment = Environment(spec.paths)
        environment.paths = (environment.held.enter_context(self._shared.hold(f"installed-{asked.key()}", make)),)
        return environment

    def _warn(self, model: str, file: Path, reason: str, hint: str) -> None:
        """Say once a model that its requirements are not installed, why, and what to do."""
        with self._lock:
            is_new = model not in self._warned
            self._warned.add(model)
        if is_new:
            log.warning(
                "event=requirements_not_installed model=%s file=%s reason=%s hint='%s'",
                *(quoted(model), quoted(file.name), quoted(_masked(reason)), hint),
            )


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a requirements file: what is wanted, and its options; a `Path` is something in the model's folder."""

    text: str = ""
    named: Requirement | None = None
    project: Path | None = None
    options: tuple[tuple[str, str | Path | None], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the running interpreter has what it wants; what only pip can tell does not hold."""
        if self.named is None:
            return not self.text and self.project is None and all(name != "--constraint" for name, _ in self.options)
        return _holds(self.named)

    def written(self, place: Callable[[Path], str], text: str | None = None) -> str:
        """Return the line for pip, with each path as `place` has it, and `text` in place of what is wanted."""
        wanted = place(self.project) + self.text if self.project else text or self.text
        words = [name for name, _ in self.options]
        for at, (name, value) in enumerate(self.options):
            if value:
                shown = shlex.quote(place(value) if isinstance(value, Path) else value)
                words[at] = f"{name}={shown}" if name.startswith("--") else name + shown
        return " ".join(filter(None, (wanted, *words)))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A requirements.txt with all that it includes; `wheels` is the folder `requirements/` beside it, if there."""

    lines: tuple[_Line, ...]
    folder: Path
    wheels: Path | None

    @classmethod
    def read(cls, file: Path, inside: Path) -> _Asked:
        """Read the file. Raises `InvalidArtifactError` for what is unreadable or leads out of the folder `inside`."""
        lines = tuple(_Reader(file.parent, inside.resolve()).read(file))
        wheels = file.parent / "requirements"
        return cls(lines, file.parent, wheels if wheels.is_dir() else None)

    def missing(self) -> list[str]:
        """Return the lines that do not hold here."""
        return [line.written(lambda path: path.name) for line in self.lines if not line.holds]

    def key(self) -> str:
        """Return the digest of all that decides what is installed."""
        parts = sorted(line.written(digest_of, str(line.named or "")) for line in self.lines)
        parts += [sys.version, sysconfig.get_platform(), digest_of(self.wheels) if self.wheels else ""]
        return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


class _Reader:
    """Reads requirements files by pip's rules, and follows no path out of the model's folder."""

    def __init__(self, working: Path, inside: Path) -> None:
        self._working = working
        self._inside = inside
        self._known = packed.variables()
        self._seen: set[Path] = set()

    def read(self, file: Path) -> Iterator[_Line]:
        """Yield the lines of a file and of those that it includes, each once."""
        if file.resolve() in self._seen:
            return
        self._seen.add(file.resolve())
        try:
            text = "\n".join(file.read_text("utf-8-sig").splitlines()).replace("\\\n", "")
            for line in text.splitlines():
                if bare := re.sub(r"(^|\s+)#.*$", "", line).strip():
                    yield from self._line(_VARIABLE.sub(lambda name: self._known.get(name[1], name[0]), bare), file)
        except (OSError, ValueError) as error:
            raise InvalidArtifactError(f"'{file.name}' cannot be read ({error}): correct it.") from None

    def _line(self, line: str, file: Path) -> Iterator[_Line]:
        text, *rest = re.split(r"(?:^|\s+)(?=-)", line, maxsplit=1)
        kept: list[tuple[str, str | Path | None]] = []
        for name, value in _options("".join(rest)):
            is_path = bool(value) and ("://" not in value or value.startswith("file:"))
            if name == "--requirement" and is_path:
                yield from self.read(self._checked(file.parent, value))
            elif name == "--editable":  # a link back to its sources, which no other model could share
                yield self._wanted(value, ())
            else:
                is_path = is_path and name in _PATH_OPTIONS.values()
                kept.append((name, self._checked(file.parent, value) if is_path else value))
        if text or kept:
            yield self._wanted(text, tuple(kept))

    def _wanted(self, text: str, options: tuple[tuple[str, str | Path | None], ...]) -> _Line:
        with contextlib.suppress(InvalidRequirement):
            named = Requirement(text)
            if named.url is None and not named.name.endswith((".whl", ".zip", ".gz")):
                return _Line(text, named, options=options)
        address = re.sub(r"^[\w.\[\],-]+\s*@\s*", "", text)
        bare = re.split(r"\s*;|\[", address)[0]
        if not text or ("://" in bare and not bare.startswith("file:")):
            return _Line(text, options=options)
        return _Line(address[len(bare) :], None, self._checked(self._working, bare), options)

    def _checked(self, folder: Path, value: str) -> Path:
        path = (folder / value.removeprefix("file://")).resolve()
        fault = "outside of the model's folder: pack it into the model"
        if path.is_relative_to(self._inside):
            if path.exists():
                return path
            fault = "no requirement, and no file of the model: correct it"
        raise InvalidArtifactError(f"requirements.txt names '{value}', which is {fault}.")


def _options(text: str) -> Iterator[tuple[str, str]]:
    """Split options as pip does: `-r x`, `-rx`, `--requirement=x`, or the start of the name; a value may be missing."""
    found: list[list[str]] = []
    for word in shlex.split(text):
        if word.startswith("--"):
            name, _, value = word.partition("=")
            full = (each for each in _PATH_OPTIONS.values() if each.startswith(name))
            found.append([next(full, name), value])
        elif word.startswith("-"):
            found.append([_PATH_OPTIONS.get(word[:2], word[:2]), word[2:]])
        elif found[-1][1]:
            raise ValueError(f"'{word}' follows an option that has a value")
        else:
            found[-1][1] = word
    for name, value in found:
        yield name, value


def _holds(wanted: Requirement, seen: frozenset[str] = frozenset()) -> bool:
    """Say whether the running interpreter has it, with what its extras need."""
    if not _applies(wanted) or str(wanted) in seen:
        return True
    try:
        found = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError:
        return False
    if wanted.url is not None or not wanted.specifier.contains(found.version, prereleases=True):
        return False
    for need in [Requirement(text) for text in (found.requires or ()) if wanted.extras]:
        if not _applies(need) and any(_applies(need, extra) for extra in wanted.extras):
            need.marker = None
            if not _holds(need, seen | {str(wanted)}):
                return False
    return True


def _applies(wanted: Requirement, extra: str = "") -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


class _Installation:
    """pip's two runs in a private folder, where its cache and its temporary files lie too."""

    def __init__(self, asked: _Asked, work: Path, model: str, timeout_s: float) -> None:
        self._asked = asked
        self._work = work
        self._model = model
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._copies: dict[Path, Path] = {}

    def run(self) -> Path:
        """Return the folder for the path: empty if what the image has, its dependencies too, is enough."""
        target, report = self._work / "target", self._work / "report.json"
        target.mkdir()
        self._pip([line.written(self._place) for line in self._asked.lines], "--dry-run", "--report", str(report))
        if lacking := json.loads(report.read_bytes())["install"]:
            self._pip(self._lines_for(lacking), "--no-deps", "--target", str(target))
        return target

    def _lines_for(self, lacking: list[dict[str, Any]]) -> list[str]:
        """Return addresses, projects and options as they stand, and by exact version what else pip would add."""
        lines = [line.written(self._place) for line in self._asked.lines if line.named is None]
        asked = {
            canonicalize_name(each.named.name): each
            for each in self._asked.lines
            if each.named and _applies(each.named)
        }
        for item in lacking:
            name, version = canonicalize_name(item["metadata"]["name"]), item["metadata"]["version"]
            if not item["is_direct"]:
                lines.append(asked.get(name, _Line()).written(self._place, f"{name}=={version}"))
            elif not item["requested"]:  # what an address needs by an address
                info = item["download_info"]
                kind, commit = (f"{v['vcs']}+", f"@{v['commit_id']}") if (v := info.get("vcs_info")) else ("", "")
                lines.append(f"{name} @ {kind}{info['url']}{commit}")
        return lines

    def _place(self, path: Path) -> str:
        """Return a project's folder as a copy, for building writes into it; anything else where it is."""
        if not any((path / name).exists() for name in ("pyproject.toml", "setup.py")):
            return str(path)
        if path not in self._copies:
            self._copies[path] = self._work / "sources" / str(len(self._copies)) / path.name
            shutil.copytree(path, self._copies[path], symlinks=True)
        return str(self._copies[path])

    def _pip(self, lines: list[str], *options: str) -> None:
        file, output = self._work / "requirements.txt", self._work / "output.txt"
        file.write_text("\n".join(lines), "utf-8")
        links = ("--find-links", str(self._asked.wheels)) if self._asked.wheels else ()
        command = [sys.executable, "-P", "-m", "pip", "install", "-r", str(file), *links, *options, *_QUIET]
        command += ["--cache-dir", str(self._work / "cache")]
        env = packed.variables() | {"TMPDIR": str(self._work), "PIP_USER": "0"}
        with output.open("wb") as sink:
            pip = Popen(  # noqa: S603  our own interpreter and our own words
                command, cwd=self._asked.folder, env=env, stdin=DEVNULL, stdout=sink, stderr=sink, process_group=0
            )
            try:
                status = pip.wait(max(0, self._deadline - time.monotonic()))
            except TimeoutExpired:
                raise self._failure(f"took longer than {self._timeout_s:g} s", output) from None
            finally:
                if pip.poll() is None:
                    os.killpg(pip.pid, signal.SIGKILL)  # what it builds with is in its group
                    pip.wait()
        if log.isEnabledFor(logging.DEBUG):
            for line in output.read_text("utf-8", "replace").splitlines():
                log.debug("event=pip model=%s line=%s", quoted(self._model), quoted(_masked(line)))
        if status:
            raise self._failure(f"failed (exit status {status})", output)

    def _failure(self, what: str, output: Path) -> LoadFailedError:
        lines = [line.strip() for line in output.read_text("utf-8", "replace").splitlines() if line.strip()]
        # Where it could not connect pip repeats that five times, and its reason stands before or after.
        lines = [line for line in lines if not line.startswith("WARNING:")] or lines
        last = _masked(" | ".join(lines[-_LAST_LINES:]))[-_LAST_LINES_MAX_CHARS:]
        return LoadFailedError(
            f"Installing the requirements of model '{self._model}' {what}: {last or 'pip said nothing'}. Correct "
            "requirements.txt, pack wheels into requirements/ beside it, or raise the timeout."
        )


def _masked(text: str) -> str:
    return _CREDENTIALS.sub("***@", text)
