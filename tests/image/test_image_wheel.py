"""The wheels of the images: torch's CPU build and nothing else, and ours with all that workers need.

No Docker, no download.
"""

import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.torch_wheel import cuda_needs
from tests.image.conftest import ROOT

CUDA = "nvidia-cudnn-cu13==9.1"


def wheel(folder: Path, *needs: str) -> Path:
    """Write the smallest wheel of torch that pip takes."""
    folder.mkdir(exist_ok=True)
    tag = f"cp311-cp311-manylinux_2_28_{platform.machine()}"
    metadata = "".join(f"Requires-Dist: {need}\n" for need in needs)
    path = folder / f"torch-2.13.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        info = "torch-2.13.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n{metadata}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
    return path


def fetch(index: Path, target: Path) -> "subprocess.CompletedProcess[str]":
    """Run the script with pip sent to a folder instead of an index."""
    script = str(ROOT / "scripts/torch_wheel.py")
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": "/dev/null"}
    command = [sys.executable, script, str(target)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_cpu_build_needs_nothing_of_cuda(tmp_path: Path) -> None:
    """Its few needs are pure Python."""
    assert cuda_needs(wheel(tmp_path, "filelock", "sympy>=1.13.3", 'triton==3.1; extra == "x"')) == []


@pytest.mark.parametrize("need", [f'{CUDA}; platform_system == "Linux"', "cuda-toolkit[cublas]==13"])
def test_a_cuda_build_is_known_by_what_it_needs(tmp_path: Path, need: str) -> None:
    """The file name need not tell: the default index's build has no local version."""
    assert cuda_needs(wheel(tmp_path, "filelock", need)) == [need]


def test_a_cpu_build_is_kept(tmp_path: Path) -> None:
    """The image's build finds it in the folder."""
    found = wheel(tmp_path / "index", "filelock")
    done = fetch(tmp_path / "index", tmp_path / "wheels")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == [found.name]


def test_a_cuda_build_is_refused_with_the_way_out_and_not_kept(tmp_path: Path) -> None:
    """It would make an image of several gigabytes, and a build without torch is possible."""
    wheel(tmp_path / "index", CUDA)
    done = fetch(tmp_path / "index", tmp_path / "wheels")
    assert done.returncode == 1
    assert f"is a CUDA build (it needs {CUDA} and more)" in done.stderr
    assert "EXTRAS=onnx" in done.stderr
    assert list((tmp_path / "wheels").iterdir()) == []


def test_no_build_at_all_is_said_too(tmp_path: Path) -> None:
    """An index without torch: the same way out, no traceback."""
    (tmp_path / "index").mkdir()
    done = fetch(tmp_path / "index", tmp_path / "wheels")
    assert done.returncode == 1
    assert "No torch==2.13.0" in done.stderr
    assert "Traceback" not in done.stderr


def test_our_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    """Also the folder that goes on a worker's path: `compat` is no package, and a packaging tool may pass it over."""
    shutil.copytree(ROOT / "serving", tmp_path / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path / "dist"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", *offline, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((tmp_path / "dist").glob("wharf_serving-*.whl"))) as archive:
        packed = {name for name in archive.namelist() if name.startswith("serving/")}
    wanted = {str(path.relative_to(tmp_path)) for path in (tmp_path / "serving").rglob("*.py")}
    assert {"serving/workers/compat/djl_python/__init__.py", "serving/workers/dialects/sagemaker.py"} <= wanted
    assert wanted <= packed
