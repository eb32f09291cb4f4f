#!/usr/bin/env python3
"""Fetch torch's CPU wheel for the images into a folder, and refuse a CUDA build.

Knows the one version and what a CUDA build looks like (its metadata asks for nvidia or cuda packages); where pip looks
is the user's configuration. The wheel is the image's (Linux, Python 3.11), whatever runs here. `make wheel` calls it.
"""

import email
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

VERSION = "2.13.0"
TARGET = ["--python-version", "311", "--implementation", "cp", "--abi", "cp311"]
ADVICE = """Either point pip at a place with torch's CPU build (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL; its file name has
'+cpu'), or build the image without torch: make build/cpu EXTRAS=onnx"""


def fetch(folder: Path) -> Path:
    """Download the wheel into `folder` and return its path."""
    tag = f"manylinux_2_28_{platform.machine()}"
    where = ["--no-deps", "--only-binary=:all:", "--platform", tag, "--dest", str(folder)]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "download", *TARGET, *where, f"torch=={VERSION}"], check=False).returncode:
        sys.exit(f"No torch=={VERSION} for {tag} where pip looks.\n{ADVICE}")
    return next(folder.glob(f"torch-{VERSION}*.whl"))


def cuda_needs(wheel: Path) -> list[str]:
    """Return the requirements of a wheel that only a CUDA build has."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        needs = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    return [need for need in needs if need.lower().startswith(("nvidia-", "cuda-"))]


def main() -> None:
    """Fetch, look, keep or refuse."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    wheel = fetch(folder)
    if needs := cuda_needs(wheel):
        wheel.unlink()
        sys.exit(f"{wheel.name} is a CUDA build (it needs {needs[0].split(';')[0].strip()} and more).\n{ADVICE}")
    print(f"{wheel} ({wheel.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
