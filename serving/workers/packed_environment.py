"""Environments as they lie on disk: which interpreter one holds, what it would set, and which modules it brings.

Finds the interpreter of an environment, unpacked or packed (conda-pack), and refuses with the reason what could not run
here. Archives are read by the readers of `repository`: files first, symbolic links last, so that nothing is written
through a link. Unlike a model's links, an environment's may lead out of it (a venv's interpreter is a link to the
system's); only the worker follows them. `SharedFolders` keeps a folder as long as somebody holds it; one process owns
them, by a lock that ends with it. What a model asks for is `environments`' business, the only caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired, run
from types import TracebackType

from serving.errors import InvalidArtifactError, LoadFailedError, ServingError
from serving.logs import quoted
from serving.repository.archives import ArchiveKind, archive_kind
from serving.repository.limits import Meter, UnpackLimits
from serving.repository.members import Kind, Member, safe_parts
from serving.repository.owned_folder import lock_folder
from serving.repository.tarball import gzip_members, tar_members
from serving.repository.zipball import zip_members

log = logging.getLogger("wharf.environments")

OLDEST_PYTHON = (3, 9)
"""What `workers.main` and the dialects are written for."""

_START_TIMEOUT_S = 30.0
"""A bare interpreter starts in 0.02 s; a cold disk or an emulated processor takes longer."""

_LEFTOVER = ".wharf-"
_LOCK = ".wharf-lock"

_ELF_HEADER_BYTES = 20
_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""`e_machine` of the ELF specification; the field is the two bytes at 18."""

_READERS = {ArchiveKind.GZIP: gzip_members, ArchiveKind.TAR: tar_members, ArchiveKind.ZIP: zip_members}


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter that starts here, and the variables that activating its environment would set."""

    python: Path
    environ: Mapping[str, str]


def packed_kind(path: Path) -> ArchiveKind | None:
    """Return the kind of archive that `path` is by its bytes, None for a folder or any other file.

    Raises `InvalidArtifactError` for what is not there, unreadable, or packed in a way that is not read here.
    """
    if path.is_dir():
        return None
    try:
        with path.open("rb") as file:
            return archive_kind(file, path.name)
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror})", _WANTED) from None


def find_interpreter(path: Path, archive: Path | None = None) -> Interpreter:
    """Return the interpreter that `path` is or, for an environment's folder, holds.

    Raises `InvalidArtifactError` that names the path (in `archive`, if it is from there), what is there and is wanted.
    """
    try:
        python = _python_below(path) if path.is_dir() else path
        _check_binary(python)
        environ = _activated(python.parent.parent) if python.parent.name == "bin" else {}
        _check_starts(python, environ)
    except InvalidArtifactError as error:
        raise InvalidArtifactError(str(error).replace(str(path), str(archive or path))) from None
    return Interpreter(python, environ)


def unpack_environment(archive: Path, kind: ArchiveKind, folder: Path, limits: UnpackLimits) -> None:
    """Write what `archive` holds into the empty `folder`; after an error the caller removes it.

    Raises `InvalidArtifactError` for a damaged or refused archive, `LoadFailedError` when the disk fails.
    """
    meter = Meter(archive.name, archive.stat().st_size, limits)
    try:
        with archive.open("rb") as file:
            _write(_READERS[kind](file, meter), folder, meter)
    except ServingError:
        raise
    except OSError as error:
        raise LoadFailedError(
            f"Environment '{archive}' could not be unpacked ({error.strerror or error}): check the archive, and the "
            "disk of WHARF_CACHE_DIR."
        ) from error
    except Exception as error:  # gzip, zlib, zipfile and struct raise a dozen types for damaged bytes
        raise meter.refusal(f"is damaged ({type(error).__name__}: {error})", "copy or pack it again") from error


def relocate(folder: Path, timeout_s: float) -> None:
    """Run conda-pack's own `bin/conda-unpack`, where there is one: it writes the folder's place into its files.

    Raises `LoadFailedError` with its last line.
    """
    for script in (folder / "bin" / "conda-unpack", *folder.glob("*/bin/conda-unpack")):
        if script.is_file():
            _check_binary(python := _python_below(script.parent.parent))
            if fault := _fault_of([str(python), str(script)], _activated(script.parent.parent), timeout_s):
                raise LoadFailedError(f"'{script.name}' of the packed environment failed ({fault}): pack it again.")
            return


def _write(members: Iterator[Member], folder: Path, meter: Meter) -> None:
    links: list[tuple[Path, str]] = []
    for member in members:
        parts = safe_parts(member.name, meter)
        if not parts:
            continue
        meter.count_member(member.name)
        place = folder.joinpath(*parts)
        (place if member.kind is Kind.FOLDER else place.parent).mkdir(mode=0o755, parents=True, exist_ok=True)
        if member.kind is Kind.FILE:
            _write_file(member, place)
        elif member.kind is Kind.HARDLINK:
            os.link(folder.joinpath(*safe_parts(member.target, meter)), place, follow_symlinks=False)
        elif member.kind is Kind.SYMLINK:
            links.append((place, member.target))
    for place, target in links:
        place.symlink_to(target)


def _write_file(member: Member, place: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(place, flags, 0o755 if member.is_executable else 0o644), "wb") as sink:
        for chunk in member.chunks:
            sink.write(chunk)


_WANTED = "name an interpreter, an environment's folder with bin/python, or a .tar.gz of one (conda-pack makes it)"


def _refusal(path: Path, found: str, wanted: str) -> InvalidArtifactError:
    return InvalidArtifactError(f"Environment '{path}' {found}: {wanted}.")


def _python_below(folder: Path) -> Path:
    """Return bin/python of the folder, or of the one folder in it: `tar czf env.tar.gz env` packs a level more."""
    inside = sorted(folder.iterdir())
    for root in [folder] + inside * (len(inside) == 1):
        for name in ("python", "python3"):
            if os.path.lexists(root / "bin" / name):
                return root / "bin" / name
    names = ", ".join(each.name for each in inside[:8]) or "nothing"
    raise _refusal(folder, f"has no bin/python but {names}", _WANTED)


def _check_binary(python: Path) -> None:
    if not python.exists():
        found = f"is a link to '{python.readlink()}', which is not here" if python.is_symlink() else "is not there"
        raise _refusal(python, found, "bring the interpreter along (conda-pack does), or have it in the image")
    if not python.is_file():
        raise _refusal(python, "is neither a file nor a folder", _WANTED)
    if not os.access(python, os.X_OK):
        raise _refusal(python, "is not executable", "an interpreter has mode 0755")
    start, ours = _header(python), _header(Path(sys.executable))
    if not start.startswith((b"\x7fELF", b"#!")):
        raise _refusal(python, "is no program for Linux", _WANTED)
    if start.startswith(b"\x7fELF") and start[4:6] + start[18:] != ours[4:6] + ours[18:]:
        raise _refusal(python, f"is built for {_machine(start)}", f"pack it on {_machine(ours)}, which this server is")


def _header(program: Path) -> bytes:
    with program.open("rb") as file:
        return file.read(_ELF_HEADER_BYTES)


def _machine(header: bytes) -> str:
    number = int.from_bytes(header[18:20], "big" if header[5:6] == b"\x02" else "little")
    return _MACHINES.get(number, f"ELF machine {number}")


def _check_starts(python: Path, environ: Mapping[str, str]) -> None:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    code = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON} and 'it is Python ' + sys.version.split()[0])"
    if fault := _fault_of([str(python), "-I", "-S", "-c", code], environ, _START_TIMEOUT_S):
        raise _refusal(python, f"does not run here ({fault})", f"bring CPython {oldest} or newer for this machine")


def _fault_of(command: list[str], environ: Mapping[str, str], timeout_s: float) -> str:
    """Run a program of the environment; return what went wrong, nothing if nothing did."""
    try:
        env = variables() | dict(environ)
        ran = run(command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, timeout=timeout_s, check=False)  # noqa: S603
    except TimeoutExpired:
        return f"no end within {timeout_s:g} s"
    except OSError as error:
        return str(error.strerror)
    lines = ran.stdout.decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return (last[:200] or f"exit status {ran.returncode}") if ran.returncode else ""


def _activated(root: Path) -> dict[str, str]:
    """Return what bin/activate of the environment would export; none for an interpreter that belongs to the system."""
    is_conda = (root / "conda-meta").is_dir()
    if not is_conda and not (root / "pyvenv.cfg").is_file():
        return {}
    with contextlib.suppress(OSError):
        if scripts := sorted(each.name for each in (root / "etc/conda/activate.d").iterdir()):
            log.warning(
                "event=activation_scripts_not_run environment=%s scripts=%s hint='set what they export yourself'",
                *(quoted(str(root)), quoted(", ".join(scripts))),
            )
    path = f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {"PATH": path, "CONDA_PREFIX" if is_conda else "VIRTUAL_ENV": str(root)}


@dataclass(slots=True)
class _Entry:
    made: Future[None] = field(default_factory=Future)
    holders: int = 0


class SharedFolders:
    """Folders by key: the first who asks makes one, the others wait for it, the last who lets go removes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._owner: int | None = None
        if folder.exists():
            with contextlib.suppress(LoadFailedError):  # whoever needs it is told
                self._own()

    @contextlib.contextmanager
    def hold(self, key: str, make: Callable[[Path], None]) -> Iterator[Path]:
        """Yield the folder of `key`; `make` writes it at the place that it is given, or raises for all who wait."""
        self._own()
        with self._lock:
            is_first = key not in self._entries
            entry = self._entries.setdefault(key, _Entry())
            entry.holders += 1
        try:
            if is_first:
                self._make(entry, self._folder / key, make)
            entry.made.result()
            yield self._folder / key
        finally:
            self._let_go(key, entry)

    @contextlib.contextmanager
    def beside(self, place: Path) -> Iterator[Path]:
        """Yield a private folder on the same disk as `place`; what is left of it is removed."""
        work = Path(tempfile.mkdtemp(prefix=f"{_LEFTOVER}making-", dir=place.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def close(self) -> None:
        """Give the folder to the next owner."""
        with self._lock:
            if self._owner is not None:
                os.close(self._owner)
            self._owner = None

    def _make(self, entry: _Entry, place: Path, make: Callable[[Path], None]) -> None:
        try:
            make(place)
            entry.made.set_result(None)
        except BaseException as error:
            entry.made.set_exception(self._unusable(error) if isinstance(error, OSError) else error)

    def _let_go(self, key: str, entry: _Entry) -> None:
        with self._lock:
            entry.holders -= 1
            if entry.holders:
                return
            del self._entries[key]
            # The name must be free at once: another model may ask for the same while this is being removed.
            trash = self._folder / f"{_LEFTOVER}trash-{id(entry)}-{time.monotonic_ns()}"
            with contextlib.suppress(OSError):
                (self._folder / key).rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _own(self) -> None:
        """Lock the folder for this process and remove what a dead one left; nobody can hold that."""
        with self._lock:
            if self._owner is not None:
                return
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._owner = lock_folder(self._folder, _LOCK, "installed")
            except OSError as error:
                raise self._unusable(error) from error
            for left in self._folder.iterdir():
                if left.name != _LOCK:
                    shutil.rmtree(left, ignore_errors=True)

    def _unusable(self, error: OSError) -> LoadFailedError:
        return LoadFailedError(
            f"Folder '{self._folder}' cannot hold environments of models ({error.strerror or error}): "
            "set WHARF_CACHE_DIR to a writable folder of this server alone, with room."
        )


class Environment:
    """What a model's workers run with, there until `release`; also a context manager.

    `paths` go before the image's packages on sys.path, after the model's own. `python` is another interpreter to run
    under, with `environ` added to the variables.
    """

    def __init__(
        self,
        own_paths: tuple[Path, ...],
        paths: tuple[Path, ...] = (),
        python: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.paths = paths
        self.python = python
        self.environ = dict(environ or {})
        self._own_paths = own_paths
        self.held = contextlib.ExitStack()

    def must_spawn(self, preloaded: Collection[str]) -> bool:
        """Say whether a fork of a process that imported the modules `preloaded` would run the wrong code.

        So it is with another interpreter, and where a folder of this environment or of the model has a module, or
        the metadata of a package, of the same name: the fork would keep the one that is there.
        """
        names = frozenset(preloaded)
        return self.python is not None or any(shadows(path, names) for path in (*self._own_paths, *self.paths))

    def release(self) -> None:
        """Let the folder go, and remove it if no other model uses it; a second call does nothing."""
        self.held.close()

    def __enter__(self) -> Environment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def shadows(folder: Path, preloaded: Collection[str], prefix: str = "") -> bool:
    """Say whether a folder of sys.path has one of `preloaded`; folders without `__init__` only lend their names."""
    if not folder.is_dir():
        return False
    for each in folder.iterdir():
        name = prefix + each.name.partition("-" if each.suffix == ".dist-info" else ".")[0]
        if each.is_dir() and each.suffix != ".dist-info" and not any(each.glob("__init__.*")):
            if any(known.startswith(f"{name}.") for known in preloaded) and shadows(each, preloaded, f"{name}."):
                return True
        elif name in preloaded and (each.is_dir() or each.suffix in (".py", ".so", ".pyc")):
            return True
    return False


def variables() -> dict[str, str]:
    """Return what a program of the model may see of our variables: all but the server's own secret."""
    return {name: value for name, value in os.environ.items() if name != "WHARF_ADMIN_TOKEN"}


def digest_of(path: Path) -> str:
    """Return the sha256 of a file's bytes, or of the names and bytes of all files below a folder."""
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(each for each in path.rglob("*") if each.is_file())
    names = [f"{each.relative_to(path)} {digest_of(each)}" for each in files]
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
