"""Worker processes: what each is born with, how its end is told, and that nothing of it stays."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.errors import LoadFailedError, UnavailableError
from serving.workers.instance import Instance
from serving.workers.supervisor import Supervisor, Wish, WorkerProcess, describe_end
from tests.waiting import until
from tests.workers.processes import ECHO, Ends, files_of, is_alive, launch_of, open_files, tell, worker


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for most tests."""
    environ = {**os.environ, "WHARF_ADMIN_TOKEN": "s3cret", "AWS_REGION": "eu-west-1", "OMP_NUM_THREADS": "7"}
    made = Supervisor(("numpy",), environ=environ)
    yield made
    made.close()


@pytest.fixture
def fresh() -> Iterator[Supervisor]:
    """A zygote that a test may kill."""
    made = Supervisor(())
    yield made
    made.close()


@pytest.fixture
def instance(supervisor: Supervisor, tmp_path: Path) -> Iterator[Instance]:
    """A worker that does what it is told."""
    with worker(supervisor, launch_of(tmp_path, threads=2, open_files=200, instance=1)) as made:
        yield made


# ---- what a worker is born with --------------------------------------------------------------------------------------


def test_a_worker_is_forked_from_the_zygote_with_what_it_imported(instance: Instance) -> None:
    """numpy is there without an import of its own: nothing looks for it on disk."""
    assert tell(instance, "os.getpid()") == instance.process.pid
    assert tell(instance, "'numpy' in sys.modules")
    assert tell(instance, "os.getppid()") != os.getpid()


def test_the_servers_secrets_are_not_in_its_environment(instance: Instance) -> None:
    """The token opens management; the rest of the environment is the model's business."""
    assert tell(instance, "dict(os.environ).get('WHARF_ADMIN_TOKEN', 'none')") == "none"
    assert tell(instance, "os.environ['AWS_REGION']") == "eu-west-1"
    environ = Path(f"/proc/{instance.process.pid}/environ").read_bytes()
    assert b"s3cret" not in environ


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"])
def test_its_threads_come_from_the_core_budget(instance: Instance, name: str) -> None:
    """Not from the machine, nor from the server's own variable."""
    assert tell(instance, f"os.environ['{name}']") == "2"


def test_its_own_environment_wins(supervisor: Supervisor, tmp_path: Path) -> None:
    """What a model's configuration sets."""
    with worker(supervisor, launch_of(tmp_path, environ={"OMP_NUM_THREADS": "3", "MINE": "ü"})) as instance:
        assert tell(instance, "[os.environ['OMP_NUM_THREADS'], os.environ['MINE']]") == ["3", "ü"]


def test_it_stands_in_the_models_folder_with_its_code_first_on_the_path(instance: Instance, tmp_path: Path) -> None:
    """And writes no bytecode beside it."""
    assert tell(instance, "os.getcwd()") == str(tmp_path)
    assert tell(instance, "sys.path[0]") == str(tmp_path / "code")
    assert not list(tmp_path.rglob("__pycache__"))


def test_it_is_a_session_and_a_group_of_its_own(instance: Instance) -> None:
    """A signal to our group is none to it, and its own group can be killed."""
    pid = instance.process.pid
    assert tell(instance, "[os.getpid(), os.getpgid(0), os.getsid(0)]") == [pid, pid, pid]


def test_it_has_a_title_that_ps_shows(instance: Instance) -> None:
    """With the model's name and the worker's number."""
    title = Path(f"/proc/{instance.process.pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert title == "wharf worker: m #1"


def test_it_has_its_limits(instance: Instance) -> None:
    """Open files as said; no core dumps; address space untouched unless asked for."""
    limits = "__import__('resource')"
    assert tell(instance, f"{limits}.getrlimit({limits}.RLIMIT_NOFILE)") == [200, 200]
    assert tell(instance, f"{limits}.getrlimit({limits}.RLIMIT_CORE)")[0] == 0
    assert tuple(tell(instance, f"{limits}.getrlimit({limits}.RLIMIT_AS)")) == resource.getrlimit(resource.RLIMIT_AS)


def test_an_address_space_that_is_limited_is_a_memory_error(supervisor: Supervisor, tmp_path: Path) -> None:
    """And no kill: the handler may catch it."""
    from serving.errors import InsufficientMemoryError

    with worker(supervisor, launch_of(tmp_path, address_space_bytes=1 << 30)) as instance:
        with pytest.raises(InsufficientMemoryError, match="MemoryError"):
            tell(instance, "len(bytearray(2 << 30))")
        assert tell(instance, "1") == 1


def test_it_has_no_file_of_ours_open(instance: Instance) -> None:
    """Its standard three and its channel: no socket of the server's, no other worker's output."""
    links = {each.name: str(each.readlink()) for each in Path(f"/proc/{instance.process.pid}/fd").iterdir()}
    assert links.pop("0") == os.devnull
    assert links.pop("1") == links.pop("2")
    assert links.pop("3").startswith("socket:")
    assert not links


def test_signals_are_as_python_has_them(instance: Instance) -> None:
    """People's subprocesses and handlers find defaults; the zygote ignores some."""
    names = "SIGTERM", "SIGHUP", "SIGCHLD"
    values = tell(
        instance, f"[int(__import__('signal').getsignal(n)) for n in {[int(signal.Signals[n]) for n in names]}]"
    )
    assert values == [0, 0, 0]


def test_two_workers_draw_different_random_numbers(supervisor: Supervisor, tmp_path: Path) -> None:
    """A fork copies the state of every generator."""
    draw = "[__import__('random').random(), float(__import__('numpy').random.rand())]"
    with worker(supervisor, launch_of(tmp_path)) as one, worker(supervisor, launch_of(tmp_path)) as other:
        pairs = list(zip(tell(one, draw), tell(other, draw), strict=True))
    assert all(a != b for a, b in pairs)


def test_it_collects_its_garbage(instance: Instance) -> None:
    """The zygote does not, so that forked pages stay shared."""
    assert tell(instance, "__import__('gc').isenabled()")


# ---- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("os._exit(3)", 3, "exited with status 3"),
        ("os.kill(os.getpid(), 9)", -9, "was killed by signal 9 (Killed)"),
        ("__import__('ctypes').string_at(0)", -11, "was killed by signal 11 (Segmentation fault)"),
        ("__import__('sys').exit(5)", 5, "exited with status 5"),
    ],
)
def test_an_end_is_told_with_its_status(
    supervisor: Supervisor, tmp_path: Path, code: str, status: int, words: str
) -> None:
    """Within a second, to whoever waits; the request that it happened in is a 503."""
    ends = Ends()
    with worker(supervisor, launch_of(tmp_path), ends) as instance:
        with pytest.raises(UnavailableError):
            tell(instance, code)
        assert instance.process.exited.wait(1)
        assert ends.event.wait(1)
        assert (instance.process.status, ends.instances) == (status, [instance])
        assert describe_end(status, "") == words
        assert not is_alive(instance.process.pid)


def test_a_kill_takes_along_whatever_it_started(supervisor: Supervisor, tmp_path: Path) -> None:
    """Also what left its session, and when nobody else is there: memory is back when an unload answers."""
    start = "__import__('subprocess').Popen(['sleep', '60'], start_new_session={}).pid"
    with worker(supervisor, launch_of(tmp_path)) as instance:
        pids = [tell(instance, start.format(is_new)) for is_new in (False, True)]
        assert all(map(is_alive, pids))
        instance.kill()
        assert not any(map(is_alive, [instance.process.pid, *pids]))


def test_a_daemon_does_not_outlive_its_worker(supervisor: Supervisor, tmp_path: Path) -> None:
    """However it left; the zygote takes orphans in."""
    daemon = "sh -c 'setsid sleep 60 & echo $!'"
    with worker(supervisor, launch_of(tmp_path)) as instance:
        pid = int(tell(instance, f"__import__('os').popen({daemon!r}).read()"))
        instance.kill()
    until(lambda: not is_alive(pid))


def test_what_stop_finds_alive_ends(supervisor: Supervisor, tmp_path: Path) -> None:
    """By the worker's own farewell."""
    with worker(supervisor, launch_of(tmp_path)) as instance:
        instance.stop()
        assert instance.process.status == 0


def test_a_killed_worker_is_none_of_the_others(supervisor: Supervisor, tmp_path: Path, instance: Instance) -> None:
    """Nor of the next."""
    with worker(supervisor, launch_of(tmp_path)) as other:
        os.kill(other.process.pid, signal.SIGKILL)
        assert other.process.exited.wait(1)
    assert tell(instance, "1") == 1
    with worker(supervisor, launch_of(tmp_path)) as another:
        assert tell(another, "1") == 1


def test_when_the_zygote_dies_all_are_told_and_the_next_spawn_has_another(fresh: Supervisor, tmp_path: Path) -> None:
    """Its workers go with it: nobody is left that nobody watches."""
    ends = Ends()
    with worker(fresh, launch_of(tmp_path), ends) as one, worker(fresh, launch_of(tmp_path), ends) as other:
        pid = fresh.zygote_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert one.process.exited.wait(5)
        assert other.process.exited.wait(5)
        assert "forked from died" in describe_end(one.process.status, one.process.reason)
        until(lambda: not is_alive(one.process.pid) and not is_alive(other.process.pid))
    assert set(ends.instances) == {one, other}
    with worker(fresh, launch_of(tmp_path)) as next_one:
        assert tell(next_one, "1") == 1
    assert fresh.zygote_pid != pid


def test_a_zygote_that_dies_again_and_again_is_another_each_time(fresh: Supervisor, tmp_path: Path) -> None:
    """And leaves no file open in the server."""
    counts = []
    for _ in range(4):
        with worker(fresh, launch_of(tmp_path)) as instance:
            assert fresh.zygote_pid is not None
            os.kill(fresh.zygote_pid, signal.SIGKILL)
            assert instance.process.exited.wait(5)
        until(lambda: fresh._channel is None)
        counts.append(open_files())
    assert counts[-1] <= counts[0]


def test_closing_ends_everything(tmp_path: Path) -> None:
    """The zygote and its workers; no later wish is granted."""
    supervisor = Supervisor(())
    with worker(supervisor, launch_of(tmp_path)) as instance:
        pid = supervisor.zygote_pid
        assert pid is not None
        supervisor.close()
        assert not is_alive(pid)
        assert instance.process.exited.wait(5)
        assert not is_alive(instance.process.pid)
    with pytest.raises(UnavailableError, match="shutting down"):
        Instance(supervisor, launch_of(tmp_path), Wish("m"), Ends())
    supervisor.close()


def test_a_server_that_is_killed_leaves_nobody(tmp_path: Path) -> None:
    """Without a word to the zygote: its socket ends."""
    launch_of(tmp_path)
    script = f"""
import os, signal
from pathlib import Path
from serving.workers.supervisor import Supervisor
from tests.workers.processes import *
s = Supervisor(())
i = Instance(s, launch_of(Path({str(tmp_path)!r})), Wish("m"), Ends())
i.load(soon())
print(s.zygote_pid, i.process.pid, tell(i, "__import__('subprocess').Popen(['sleep', '60']).pid"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60, check=False)
    pids = [int(each) for each in done.stdout.split()]
    assert len(pids) == 3
    until(lambda: not any(map(is_alive, pids)))


def test_many_births_and_deaths_leave_no_file_and_no_zombie(supervisor: Supervisor, tmp_path: Path) -> None:
    """Neither here nor in the zygote."""
    launch = launch_of(tmp_path, ECHO)

    def count() -> tuple[int, int]:
        return open_files(), len(files_of(supervisor.zygote_pid or 0))

    with worker(supervisor, launch):
        pass
    before = count()
    for number in range(12):
        with worker(supervisor, launch) as instance:
            if number % 2:
                os.kill(instance.process.pid, signal.SIGKILL)
    assert count() == before
    children = Path(f"/proc/{supervisor.zygote_pid}/task/{supervisor.zygote_pid}/children").read_text()
    assert children == ""


def test_a_process_that_cannot_be_started_is_one_models_trouble(tmp_path: Path) -> None:
    """No more files in the zygote: a clear error, and it lives."""
    supervisor = Supervisor(())
    supervisor.start()
    pid = supervisor.zygote_pid
    assert pid is not None
    with worker(supervisor, launch_of(tmp_path)) as first:
        taken = files_of(pid)
        second_free = [number for number in range(100) if number not in taken][1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (second_free, 100))
        with (
            pytest.raises(LoadFailedError, match=r"no process could be started \(Too many open files\)"),
            worker(supervisor, launch_of(tmp_path)),
        ):
            pass
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (100, 100))
        with worker(supervisor, launch_of(tmp_path)) as second:
            assert (tell(first, "1"), tell(second, "2")) == (1, 2)
    supervisor.close()


# ---- fork or spawn ---------------------------------------------------------------------------------------------------


def test_a_zygote_with_threads_spawns_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A fork would copy locks that nobody gives back."""
    (tmp_path / "startsathread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    supervisor = Supervisor(("startsathread",))
    with worker(supervisor, launch_of(tmp_path / "m")) as instance:
        assert not tell(instance, "'startsathread' in sys.modules")
        assert tell(instance, "os.getcwd()") == str(tmp_path / "m")
    supervisor.close()
    assert "event=zygote_has_threads threads=2 model=m consequence=spawned" in capfd.readouterr().err


def test_what_a_library_prints_at_its_import_is_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not once more by each worker, as its own."""
    (tmp_path / "printsalot.py").write_text("print('hello from the library')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    supervisor = Supervisor(("printsalot",))
    for _ in range(2):
        with worker(supervisor, launch_of(tmp_path / "m")) as instance:
            instance.stop()
    supervisor.close()
    out, err = capfd.readouterr()
    assert (out.count("hello"), err.count("hello")) == (1, 0)


def test_a_library_that_is_missing_or_broken_is_no_reason_to_serve_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What is missing is no line at all; what is broken is."""
    (tmp_path / "isbroken.py").write_text("import nosuchdependency\n")
    (tmp_path / "raises.py").write_text("1 / 0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    supervisor = Supervisor(("nosuchlibrary", "isbroken", "raises", "json"))
    with caplog.at_level(logging.INFO, "wharf.workers"):
        assert supervisor.start()
    supervisor.close()
    err = capfd.readouterr().err
    assert "preload of isbroken failed: No module named 'nosuchdependency'" in err
    assert "preload of raises failed: ZeroDivisionError" in err
    assert "nosuchlibrary" not in err
    assert "preloaded=json-" in caplog.text


def test_what_a_library_writes_at_its_import_is_a_line_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """TensorFlow writes past Python's own streams; a log of JSON stays one."""
    (tmp_path / "talks.py").write_text("import os\nos.write(2, b'I am \\xff here\\n')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    one = Supervisor(["talks"], "json")
    one.start()
    one.close()
    (line,) = [json.loads(each) for each in capfd.readouterr().err.splitlines() if "import_output" in each]
    assert (line["room"], line["message"]) == (
        "wharf.zygote",
        'event=import_output module=talks text="I am \\ufffd here"',
    )


def test_a_preload_that_ends_the_process_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the status, the setting and what was to be imported; its last words are in the log. No folder is needed."""
    (tmp_path / "endsit.py").write_text("import os\nos.write(2, b'no AVX here\\n')\nos._exit(9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", "/nowhere")
    supervisor = Supervisor(("json", "endsit"))
    with pytest.raises(LoadFailedError, match=r"imports json,endsit, .*did not start .*status 9.*WHARF_PRELOAD"):
        supervisor.start()
    supervisor.close()
    assert 'event=import_output preload=json,endsit text="no AVX here"' in caplog.text


@pytest.mark.slow
def test_a_model_may_bring_its_own_interpreter(supervisor: Supervisor, tmp_path: Path) -> None:
    """Spawned, under another executable, with nothing of our environment but the protocol."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "v")], check=True)
    python = str(tmp_path / "v/bin/python")
    with worker(supervisor, launch_of(tmp_path / "m"), python=python, environ={"FROM_WISH": "1"}) as instance:
        assert tell(instance, "sys.prefix") == str(tmp_path / "v")
        assert tell(instance, "[m for m in ('numpy', 'orjson', 'serving.logs') if m in sys.modules]") == []
        assert tell(instance, "os.environ['FROM_WISH']") == "1"
        assert tell(instance, "os.getcwd()") == str(tmp_path / "m")
        with pytest.raises(Exception, match="No module named 'numpy'"):
            tell(instance, "__import__('numpy')")
        assert tell(instance, "len('x' * 100_000)") == 100_000


def test_an_interpreter_that_is_none_is_a_clear_error(supervisor: Supervisor, tmp_path: Path) -> None:
    """And its words are in the log."""
    with (
        pytest.raises(LoadFailedError, match="exited with status 70"),
        worker(supervisor, launch_of(tmp_path), python=str(tmp_path / "nothing")),
    ):
        pass


def test_spawned_under_our_own_interpreter_nothing_is_preloaded(supervisor: Supervisor, tmp_path: Path) -> None:
    """For packages that would replace a preloaded one."""
    with worker(supervisor, launch_of(tmp_path), is_spawned=True) as instance:
        assert not tell(instance, "'numpy' in sys.modules")
        assert tell(instance, "sys.executable") == sys.executable


# ---- output ----------------------------------------------------------------------------------------------------------


@contextmanager
def stderr_in(file: Path) -> Iterator[None]:
    """Our standard error goes to a file that reading does not change: capfd's is cut, and with it what came meanwhile.

    No fixture: pytest sets its own file anew between a fixture and its test.
    """
    before = os.dup(2)
    try:
        with file.open("wb", buffering=0) as stream:
            os.dup2(stream.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def test_what_it_prints_is_in_our_log_at_once(tmp_path: Path) -> None:
    """Line by line, from both streams, without a flush of its own, with the model's name."""
    log, supervisor = tmp_path / "stderr", Supervisor(())
    with stderr_in(log), worker(supervisor, launch_of(tmp_path / "m", name="chatty")) as instance:
        tell(instance, "print('to', 'stdout')")
        tell(instance, "print('to', 'stderr', file=sys.stderr)")
        until(lambda: "stdout" in log.read_text() and "stderr" in log.read_text())
    supervisor.close()
    assert 'event=output model=chatty instance=0 text="to stdout"' in log.read_text()


def test_who_waits_for_a_pid_that_is_not_told_yet_gets_none() -> None:
    """The zygote's word may come later than the first question."""
    from serving.workers.channel import pair

    channel, theirs = pair()
    with theirs:
        process = WorkerProcess(1, channel, lambda: None)
        assert (process.pid, process.held_bytes()) == (0, 0)
        channel.close()


def test_a_loaded_worker_has_a_pid_and_holds_memory(instance: Instance) -> None:
    """Measured by what it added: its private pages and its share of the shared ones."""
    assert instance.process.pid
    rss = int(Path(f"/proc/{instance.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
    assert 1 << 20 < instance.process.held_bytes() < rss
