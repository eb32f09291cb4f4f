"""Small packages, environments and archives that the tests of environments build themselves, without an index."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

_BACKEND = """
import pathlib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    {first}
    pathlib.Path("built").touch()
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / "{wheel}", "w") as archive:
        for name, text in {files!r}.items():
            archive.writestr(name, text)
    return "{wheel}"
"""


def _files(name: str, version: str, needs: tuple[str, ...]) -> dict[str, str]:
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {n}\n" for n in needs
    )
    tag = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    folder = f"{name}-{version}.dist-info"
    return {
        f"{name}/__init__.py": f"VERSION = {version!r}\n",
        f"{folder}/METADATA": about,
        f"{folder}/WHEEL": tag,
        f"{folder}/RECORD": "",
    }


def wheel(folder: Path, name: str, version: str = "1.0", needs: tuple[str, ...] = ()) -> Path:
    """A wheel of one module with a VERSION."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in _files(name, version, needs).items():
            archive.writestr(zipfile.ZipInfo(each), text)  # the same bytes at any time
    return path


def project(folder: Path, name: str, first: str = "pass") -> Path:
    """A source tree with a build backend of its own, which runs `first` and writes into the tree as setuptools does."""
    folder.mkdir(parents=True)
    backend = _BACKEND.format(first=first, wheel=f"{name}-1.0-py3-none-any.whl", files=_files(name, "1.0", ()))
    (folder / "backend.py").write_text(backend)
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "{name}"\n'
        'version = "1.0"\n'
    )
    return folder


def venv(folder: Path) -> Path:
    """A real environment without pip."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    return folder


def tar_gz(path: Path, folder: Path, name: str = ".") -> Path:
    """The folder as `tar czf` packs it: links as links."""
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(folder, name)
    return path


def tar_of(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """A tar of (name, type, target or text), however wrong."""
    with tarfile.open(path, "w") as archive:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            data = text.encode() if kind == tarfile.REGTYPE else b""
            info.linkname, info.size = "" if data else text, len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
