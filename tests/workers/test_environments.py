"""What a model needs beside the image is made once, shared, refused with a reason, and freed with its last user."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.errors import InvalidArtifactError, LoadFailedError
from serving.repository.handler_spec import HandlerSpec
from serving.workers.environments import Environment, Environments
from tests.waiting import until
from tests.workers import packages

FILE = tarfile.REGTYPE


@pytest.fixture(autouse=True)
def pip_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index and no folder of wheels but those of a test: nothing here asks anybody."""
    for name in [each for each in os.environ if each.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    caplog.set_level(logging.DEBUG, "wharf.environments")
    return lambda event: [text for text in caplog.messages if text.startswith(f"event={event}")]


@pytest.fixture
def environments(tmp_path: Path) -> Iterator[Environments]:
    """They may install, and are held to leave nothing behind."""
    made = Environments(tmp_path / "cache", may_install=True, timeout_s=60)
    yield made
    made.close()


def model(folder: Path, text: str) -> HandlerSpec:
    """A model with wheels beside its requirements: `tiny`, twice, needs `tinier`, which needs a numpy."""
    wheels = folder / "requirements"
    packages.wheel(wheels, "tinier", needs=("numpy>=1",))
    for version in ("1.0", "2.0"):
        packages.wheel(wheels, "tiny", version, needs=("tinier",))
    return asking(folder, text)


def asking(folder: Path, text: str) -> HandlerSpec:
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text(text)
    return HandlerSpec("sagemaker", folder, requirements=folder / "requirements.txt")


def left(tmp_path: Path) -> list[str]:
    return sorted(each.name for each in (tmp_path / "cache").iterdir() if each.name != ".wharf-lock")


def inside(environment: Environment) -> set[str]:
    return {each.name for each in environment.paths[0].iterdir() if each.suffix != ".dist-info"}


# requirements.txt


def test_what_the_image_lacks_is_installed_and_what_it_has_is_not(environments: Environments, tmp_path: Path) -> None:
    """`tiny` and its dependency come; numpy, which the dependency needs, is there already."""
    with environments.open(model(tmp_path / "m", "tiny  # the newest\nnumpy\n")) as environment:
        assert inside(environment) == {"tiny", "tinier"}
        code = f"import sys; sys.path.insert(0, {str(environment.paths[0])!r}); import tiny; print(tiny.VERSION)"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
        assert (ran.stdout, environment.python, environment.environ) == ("2.0\n", None, {})
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "# nothing but a remark\n\n",
        "NumPy >= 1.0 ; python_version > '3'  # remark\n",
        "no-such-thing ; python_version < '3'\n",
        "--trusted-host example.invalid\n--no-index\nnumpy >= 1, \\\n   < 99\n",
        "-r other.txt\npytest[dev]==99 ; python_version < '3'\n",
        "numpy --hash=sha256:aa",
    ],
)
def test_what_holds_already_needs_no_installation(tmp_path: Path, lines: Callable[[str], list[str]], text: str) -> None:
    """Neither a folder nor a word, allowed to install or not."""
    spec = asking(tmp_path / "m", text)
    (tmp_path / "m" / "other.txt").write_text("-r requirements.txt\npackaging")
    for may_install in (True, False):
        environments = Environments(tmp_path / "cache", may_install=may_install, timeout_s=60)
        assert environments.open(spec).paths == ()
    assert not (tmp_path / "cache").exists()
    assert lines("") == []


def test_an_extra_that_is_lacking_does_not_hold(tmp_path: Path, lines: Callable[[str], list[str]]) -> None:
    """`pytest` is here, what `pytest[dev]` needs is not; `requests` of a later version neither."""
    environments = Environments(tmp_path / "cache", may_install=False, timeout_s=60)
    environments.open(asking(tmp_path / "m", "pytest\npytest[dev]\nnumpy>=99"))
    assert 'reason="the image lacks pytest[dev], numpy>=99"' in lines("requirements_not_installed")[0]


def test_without_leave_to_install_a_model_is_warned_about_once(
    tmp_path: Path, lines: Callable[[str], list[str]]
) -> None:
    """The line names the file, what is lacking and the setting, and no password; the model runs all the same."""
    environments = Environments(tmp_path / "cache", may_install=False, timeout_s=60)
    spec = asking(tmp_path / "m", "tiny==2\nsmall @ https://me:secret@example.invalid/small.whl")
    for _ in range(2):
        assert environments.open(spec, "resnet").paths == ()
    (line,) = lines("requirements_not_installed")
    assert "model=resnet file=requirements.txt" in line
    assert "tiny==2, small @ https://***@example.invalid/small.whl" in line
    assert "WHARF_INSTALL_REQUIREMENTS=1" in line


def test_models_with_the_same_lines_share_one_installation(environments: Environments, tmp_path: Path) -> None:
    """Order, remarks and spaces make no difference; the folder goes with the last of them."""
    first = environments.open(model(tmp_path / "a", "tiny<2\nnumpy"))
    second = environments.open(model(tmp_path / "b", "# two\nnumpy\ntiny  <2"))
    assert first.paths == second.paths
    first.release()
    first.release()
    assert inside(second) == {"tiny", "tinier"}
    second.release()
    assert left(tmp_path) == []


def test_other_wheels_beside_the_same_lines_are_another_installation(
    environments: Environments, tmp_path: Path
) -> None:
    """What `requirements/` holds is a part of the address."""
    first = environments.open(model(tmp_path / "a", "tiny"))
    other = model(tmp_path / "b", "tiny")
    packages.wheel(tmp_path / "b" / "requirements", "tiny", "3.0")
    with first, environments.open(other) as second:
        assert first.paths != second.paths
        assert inside(second) == {"tiny"}
    assert left(tmp_path) == []


def test_threads_that_want_the_same_wait_for_one_installation(
    environments: Environments, tmp_path: Path, lines: Callable[[str], list[str]]
) -> None:
    """Four models at once: pip runs for one of them."""
    specs = [model(tmp_path / name, "tiny") for name in "abcd"]
    start = threading.Barrier(4)

    def load(spec: HandlerSpec) -> Environment:
        start.wait()
        return environments.open(spec)

    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(load, specs))
    assert len({each.paths for each in opened}) == 1
    (line,) = lines("installing_requirements")
    assert line.endswith("packages=1")
    for each in opened:
        each.release()
    assert left(tmp_path) == []


def test_included_files_constraints_variables_and_editables_mean_what_they_mean_to_pip(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constraint holds, a variable is filled in, and a project is built in a copy: its own folder stays as it was."""
    monkeypatch.setenv("ANY_NAME", "tiny")
    spec = model(tmp_path / "m", "--requirem more/other.txt\n-e './my project'\n-f 'my wheels'")
    packages.project(tmp_path / "m" / "my project", "mine")
    (tmp_path / "m" / "my wheels").mkdir()
    (tmp_path / "m" / "more").mkdir()
    (tmp_path / "m" / "more" / "other.txt").write_text("${ANY_NAME}\n-c limits.txt")
    (tmp_path / "m" / "more" / "limits.txt").write_text("tiny<2")
    with environments.open(spec) as environment:
        assert inside(environment) == {"tiny", "tinier", "mine"}
        assert "1.0" in (environment.paths[0] / "tiny/__init__.py").read_text()
    assert not (tmp_path / "m" / "my project" / "built").exists()
    assert left(tmp_path) == []


def test_what_an_address_needs_by_an_address_comes_too(environments: Environments, tmp_path: Path) -> None:
    """A package may name where its dependency lies."""
    needed = packages.wheel(tmp_path / "elsewhere", "tinier")
    spec = asking(tmp_path / "m", "./wheels/tiny-1.0-py3-none-any.whl")
    packages.wheel(tmp_path / "m" / "wheels", "tiny", needs=(f"tinier @ {needed.as_uri()}",))
    with environments.open(spec) as environment:
        assert inside(environment) == {"tiny", "tinier"}


def test_a_constraint_that_the_image_meets_installs_nothing(environments: Environments, tmp_path: Path) -> None:
    """Only pip can tell, and it does."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "limits.txt").write_text("numpy>=1")
    with environments.open(asking(tmp_path / "m", "-climits.txt\nnumpy")) as environment:
        assert inside(environment) == set()


@pytest.mark.parametrize(
    "line",
    [
        *("-r ../other.txt", "-r/etc/hostname", "--constraint=../c.txt", "--no-index --find-links /usr"),
        *("-e ../project", "../project[extra] ; python_version > '3'", "/srv/a.whl", "a @ file:///srv/a.whl"),
        *("file:///srv/a.whl", "-r link.txt"),
    ],
)
def test_a_path_out_of_the_models_folder_is_refused(environments: Environments, tmp_path: Path, line: str) -> None:
    """However it is written; a link that leads out too."""
    spec = asking(tmp_path / "m", line)
    (tmp_path / "m" / "link.txt").symlink_to("/etc/hostname")
    with pytest.raises(InvalidArtifactError, match="outside of the model's folder: pack it into the model"):
        environments.open(spec)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("two words", "which is no requirement, and no file of the model"),
        ("-r none.txt", "which is no requirement, and no file of the model"),
        ("numpy --hash 'a", "No closing quotation"),
        ("numpy --hash=a b", "'b' follows an option that has a value"),
        ("\udcff", "'utf-8' codec can't decode"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, reason: str) -> None:
    """Refused where it would be installed, warned about where not."""
    spec = asking(tmp_path / "m", "")
    (tmp_path / "m" / "requirements.txt").write_bytes(line.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidArtifactError, match=reason):
        Environments(tmp_path / "cache", may_install=True, timeout_s=60).open(spec)
    assert Environments(tmp_path / "cache", may_install=False, timeout_s=60).open(spec).paths == ()


def test_a_hash_is_held_to(environments: Environments, tmp_path: Path) -> None:
    """What it does not fit is not installed."""
    data = packages.wheel(tmp_path / "m" / "requirements", "alone").read_bytes()
    spec = asking(tmp_path / "m", f"alone==1.0 \\\n  --hash=sha256:{hashlib.sha256(data).hexdigest()}")
    with environments.open(spec) as environment:
        assert inside(environment) == {"alone"}
    with pytest.raises(LoadFailedError, match="THE HASHES FROM THE REQUIREMENTS FILE"):
        environments.open(asking(tmp_path / "m", f"alone==1.0 --hash=sha256:{'0' * 64}"))


def test_a_failed_installation_says_why_and_leaves_nothing(environments: Environments, tmp_path: Path) -> None:
    """pip's last lines are in the error; the next try starts anew."""
    for _ in range(2):
        with pytest.raises(LoadFailedError, match=r"of model 'm' failed \(exit status 1\).*found for no-such-thing==9"):
            environments.open(model(tmp_path / "m", "tiny\nno-such-thing==9"))
        assert left(tmp_path) == []


def test_passwords_are_in_no_error_and_no_line(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An address with a password that nobody answers."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PIP_RETRIES", "0")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}/tiny-1.0-py3-none-any.whl"
        with pytest.raises(LoadFailedError) as failure:
            environments.open(asking(tmp_path / "m", address))
    assert "127.0.0.1" in failure.value.message
    assert "secret" not in failure.value.message + caplog.text


def test_what_is_built_sees_our_variables_but_not_the_admin_token(
    environments: Environments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build runs people's code, and a line may name a variable."""
    monkeypatch.setenv("WHARF_ADMIN_TOKEN", "secret")
    monkeypatch.setenv("OTHER", "seen")
    first = f"import os; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(repr(dict(os.environ)))"
    packages.project(tmp_path / "m" / "nosy", "nosy", first)
    (tmp_path / "m" / "${WHARF_ADMIN_TOKEN}").mkdir()
    with environments.open(asking(tmp_path / "m", "./nosy\n-f ${WHARF_ADMIN_TOKEN}")):
        seen = (tmp_path / "seen").read_text()
    assert "'OTHER': 'seen'" in seen
    assert "secret" not in seen


def test_an_installation_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """The build that hangs is a grandchild: it is gone too, and so is the folder."""
    environments = Environments(tmp_path / "cache", may_install=True, timeout_s=4)
    said = tmp_path / "pid"
    hang = f"import os, threading; pathlib.Path({str(said)!r}).write_text(str(os.getpid())); threading.Event().wait()"
    packages.project(tmp_path / "m" / "slow", "slow", hang)
    with pytest.raises(LoadFailedError, match=r"took longer than 4 s.*raise the timeout"):
        environments.open(asking(tmp_path / "m", "./slow"))
    assert left(tmp_path) == []
    stat = Path(f"/proc/{said.read_text()}/stat")
    until(lambda: not stat.exists() or ") Z " in stat.read_text())


# Environments of their own


def run(environment: Environment, code: str) -> str:
    ran = subprocess.run(
        [str(environment.python), "-c", code],
        env=os.environ | environment.environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ran.stdout.strip()


def with_python(folder: Path, python: Path) -> HandlerSpec:
    return HandlerSpec("triton_python", folder, python=python)


def test_an_unpacked_environment_is_run_where_it_lies(environments: Environments, tmp_path: Path) -> None:
    """By its folder or its interpreter; the variables are those that bin/activate sets; a fork would not do."""
    folder = packages.venv(tmp_path / "env")
    for named in (folder, folder / "bin" / "python"):
        environment = environments.open(with_python(tmp_path, named))
        assert run(environment, "import sys; print(sys.prefix)") == str(folder)
        assert environment.environ["VIRTUAL_ENV"] == str(folder)
        assert environment.environ["PATH"].split(os.pathsep)[0] == str(folder / "bin")
        assert environment.must_spawn(())
        environment.release()
    assert (folder / "bin" / "python").exists()


def test_an_interpreter_of_the_system_sets_nothing(environments: Environments) -> None:
    """It has nothing to activate."""
    python = Path(sys.executable).resolve()
    environment = environments.open(with_python(python.parent, python))
    assert (environment.python, environment.environ) == (python, {})


@pytest.mark.parametrize("nested", [".", "env"])
def test_a_packed_environment_is_unpacked_once_and_freed_with_its_last_model(
    environments: Environments, tmp_path: Path, nested: str
) -> None:
    """Two copies of one archive are one environment; its interpreter is a link that leads to the system's."""
    archive = packages.tar_gz(tmp_path / "env.tar.gz", packages.venv(tmp_path / "env"), nested)
    (tmp_path / "copy.tar.gz").write_bytes(archive.read_bytes())
    first, second, third = (
        environments.open(with_python(tmp_path, tmp_path / name))
        for name in ("env.tar.gz", "copy.tar.gz", "env.tar.gz")
    )
    assert first.python == second.python == third.python
    first.release()
    third.release()
    assert run(second, "import sys; print(sys.prefix)") == second.environ["VIRTUAL_ENV"]
    assert second.environ["VIRTUAL_ENV"].startswith(str(tmp_path / "cache"))
    second.release()
    assert left(tmp_path) == []


def conda(tmp_path: Path, unpack: str) -> Path:
    folder = packages.venv(tmp_path / "env")
    (folder / "conda-meta").mkdir()
    packages.script(folder / "etc/conda/activate.d/lib.sh", "export LIB=1")
    packages.script(folder / "bin" / "conda-unpack", unpack)
    return packages.tar_gz(tmp_path / "env.tar.gz", folder)


def test_conda_unpack_is_run_in_the_place_where_the_environment_stays(
    environments: Environments, tmp_path: Path, lines: Callable[[str], list[str]]
) -> None:
    """It writes that place into its files; what activation scripts would set is not set, and that is said."""
    archive = conda(tmp_path, "import pathlib; pathlib.Path(__file__).with_name('prefix').write_text(__file__)")
    with environments.open(with_python(tmp_path, archive)) as environment:
        prefix = Path(environment.environ["CONDA_PREFIX"])
        assert (prefix / "bin" / "prefix").read_text() == str(prefix / "bin" / "conda-unpack")
    assert "scripts=lib.sh" in lines("activation_scripts_not_run")[0]


def test_a_conda_unpack_that_fails_leaves_nothing(environments: Environments, tmp_path: Path) -> None:
    """Its last line is the reason."""
    with pytest.raises(LoadFailedError, match=r"'conda-unpack' .* failed \(prefix too long\): pack it again"):
        environments.open(with_python(tmp_path, conda(tmp_path, "import sys; sys.exit('prefix too long')")))
    assert left(tmp_path) == []


def foreign(folder: Path) -> Path:
    """A program for the other machine: our own header with the other number."""
    with Path(sys.executable).open("rb") as file:
        header = bytearray(file.read(64))
    header[18:20] = (183 if header[18] == 62 else 62).to_bytes(2, "little")
    path = packages.script(folder / "bin" / "python", "")
    path.write_bytes(header)
    return folder


def dangling(folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to("/opt/none/python3")
    return folder


def unreadable(folder: Path) -> Path:
    path = packages.script(folder / "bin" / "python", "#!/bin/sh\n")
    path.chmod(0o644)
    return folder


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda at: at, "cannot be read .*: name an interpreter"),
        (lambda at: packages.script(at / "lib" / "x", "").parents[1], "has no bin/python but lib: name an interpreter"),
        (dangling, "is a link to '/opt/none/python3', which is not here: bring the interpreter along"),
        (unreadable, "is not executable: an interpreter has mode 0755"),
        (foreign, "is built for (aarch64|x86_64): pack it on (aarch64|x86_64), which this server is"),
        (lambda at: packages.script(at / "python", "print(1)"), "is no program for Linux"),
        (
            lambda at: packages.script(at, "#!/bin/sh\necho it is Python 3.6.9\nexit 1"),
            r"\(it is Python 3.6.9\): .*3.9",
        ),
        (lambda at: packages.script(at, "#!/opt/none/sh\n"), "does not run here .No such file or directory"),
        (lambda at: packages.script(at, "BZh91AY"), "is bzip2: pack it as .tar.gz"),
        (lambda at: packages.script(at / "bin/python/x", "").parents[2], "is neither a file nor a folder"),
    ],
)
def test_an_environment_that_cannot_run_here_says_what_it_is(
    environments: Environments, tmp_path: Path, make: Callable[[Path], Path], reason: str
) -> None:
    """The path, what was found, what was wanted."""
    path = make(tmp_path / "env")
    with pytest.raises(InvalidArtifactError, match=f"'.*env.*{reason}"):
        environments.open(with_python(tmp_path, path))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("../out", FILE, "x")], "leads out of the folder"),
        ([("a", tarfile.SYMTYPE, "/tmp"), ("a/out", FILE, "x")], "File exists"),
        ([("a", FILE, "x"), ("a", FILE, "y")], "File exists"),
        ([("lib/x", FILE, "x")], "'[^']*/env.tar' has no bin/python but lib: "),
        ([("bin/python", FILE, "x"), ("b", tarfile.LNKTYPE, "none")], "No such file"),
    ],
)
def test_a_wrong_archive_leaves_nothing(
    environments: Environments, tmp_path: Path, members: list[tuple[str, bytes, str]], reason: str
) -> None:
    """Nothing is written through a link, and nothing outside."""
    archive = packages.tar_of(tmp_path / "env.tar", *members)
    with pytest.raises((InvalidArtifactError, LoadFailedError), match=reason):
        environments.open(with_python(tmp_path, archive))
    assert left(tmp_path) == []
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_refused(environments: Environments, tmp_path: Path) -> None:
    """Cut in the middle."""
    archive = packages.tar_gz(tmp_path / "env.tar.gz", packages.venv(tmp_path / "env"))
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(InvalidArtifactError, match=r"'env.tar.gz' is damaged \(EOFError.*: copy or pack it again"):
        environments.open(with_python(tmp_path, archive))
    assert left(tmp_path) == []


def test_requirements_beside_an_own_environment_are_warned_about(
    environments: Environments, tmp_path: Path, lines: Callable[[str], list[str]]
) -> None:
    """Whose interpreter they would be for is not ours to say."""
    file = asking(tmp_path / "m", "tiny").requirements
    python = Path(sys.executable)
    with environments.open(HandlerSpec("djl", tmp_path / "m", requirements=file, python=python)) as environment:
        assert environment.paths == ()
    assert "hint='install them in it'" in lines("requirements_not_installed")[0]


# Forks


@pytest.mark.parametrize(
    ("file", "preloaded", "must"),
    [
        ("numpy/__init__.py", {"numpy"}, True),
        ("numpy.py", {"numpy", "torch"}, True),
        ("numpy.cpython-311-x86_64-linux-gnu.so", {"numpy"}, True),
        ("numpy-1.26.4.dist-info/METADATA", {"numpy"}, True),
        ("google/protobuf/__init__.py", {"google.protobuf"}, True),
        ("google/cloud/__init__.py", {"google", "google.protobuf"}, False),
        ("torch/model.pt", {"torch"}, False),
        ("numpy.txt", {"numpy"}, False),
        ("numpydoc/__init__.py", {"numpy"}, False),
        ("model.py", {"numpy"}, False),
    ],
)
def test_a_fork_will_not_do_where_the_model_brings_what_is_preloaded(
    environments: Environments, tmp_path: Path, file: str, preloaded: set[str], must: bool
) -> None:
    """A fork keeps the module that is there; a folder that only has its name is no module."""
    packages.script(tmp_path / "lib" / file, "")
    spec = HandlerSpec("sagemaker", tmp_path, paths=(tmp_path / "lib", tmp_path / "none"))
    assert environments.open(spec).must_spawn(preloaded) is must


def test_an_installation_that_brings_what_is_preloaded_will_not_do_either(
    environments: Environments, tmp_path: Path
) -> None:
    """The paths of the environment count as the model's own."""
    with environments.open(model(tmp_path / "m", "tiny")) as environment:
        assert environment.must_spawn({"tinier"})
        assert not environment.must_spawn({"numpy", "torch"})


# The folder

_OTHER = """
import sys
from pathlib import Path
from serving.repository.handler_spec import HandlerSpec
from serving.workers.environments import Environments
folder = Path(sys.argv[1])
spec = HandlerSpec("sagemaker", folder / "m", requirements=folder / "m" / "requirements.txt")
held = Environments(folder / "cache", may_install=True, timeout_s=60).open(spec)
print("ready", flush=True)
sys.stdin.read()
"""


def test_two_servers_do_not_share_a_folder_and_the_next_removes_what_a_dead_one_left(tmp_path: Path) -> None:
    """The lock ends with its process, however it ends."""
    spec = model(tmp_path / "m", "tiny")
    command = [sys.executable, "-c", _OTHER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        late = Environments(tmp_path / "cache", may_install=True, timeout_s=60)
        assert len(left(tmp_path)) == 1
        with pytest.raises(LoadFailedError, match=r"another server uses it.*WHARF_CACHE_DIR"):
            late.open(spec)
        other.kill()
    Environments(tmp_path / "cache", may_install=True, timeout_s=60).close()
    assert left(tmp_path) == []
    late.open(spec).release()


def test_a_disk_that_fails_is_told_with_the_setting(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "cache").write_text("")
    environments = Environments(tmp_path / "cache" / "below", may_install=True, timeout_s=60)
    with pytest.raises(LoadFailedError, match=r"cannot hold environments .*Not a directory.*WHARF_CACHE_DIR"):
        environments.open(model(tmp_path / "m", "tiny"))
