"""Groups of ranks: one model in several processes, which answer as one, and live and die together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import DeadlineExceededError, LoadFailedError, ModelFailedError, UnavailableError
from serving.workers.group import Group
from serving.workers.handler import Reply, Request
from serving.workers.pool import Pool
from serving.workers.supervisor import Supervisor
from tests.waiting import until
from tests.workers.processes import in_background, is_alive, launch_of, soon
from tests.workers.rank_models import ask, groups, pids, ranked_launch

pytestmark = pytest.mark.torch

SHARED = Path("/dev/shm")


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    """One zygote for all."""
    made = Supervisor(("numpy", "torch"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def pair(supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A group of two that tests leave in order."""
    with groups(supervisor, ranked_launch(tmp_path_factory.mktemp("pair"))) as made:
        yield made


def send(made: Pool, code: str, seconds: float = 20) -> Reply:
    return made.submit(Request(code.encode()), soon(seconds))


def is_back(made: Pool) -> None:
    """The group answers again; the first to ask after a death may be the one who finds it."""

    def answers() -> bool:
        try:
            return bool(ask(made, "agree()") == 2)
        except UnavailableError:
            return False

    until(answers, 60)  # a busy machine, and the pool's back-off


# ---- as one ----------------------------------------------------------------------------------------------------------


def test_every_rank_gets_the_request_and_rank_0_answers(pair: Pool) -> None:
    """The sum is of both; DJL's property is an integer, and its device LOCAL_RANK's business."""
    assert ask(pair, "[agree(), rank]") == [2, 0]
    assert ask(pair, "[inputs.get_property('tensor_parallel_degree'), inputs.get_property('device_id')]") == [2, "-1"]
    assert ask(pair, "[warm['tensor_parallel_degree'], warm['device_id']]") == [2, "-1"]


def test_a_group_of_one_has_its_environment_too(supervisor: Supervisor, tmp_path: Path) -> None:
    """A handler that initialises torch.distributed need not know that it is alone."""
    with groups(supervisor, ranked_launch(tmp_path, ranks=1)) as made:
        assert ask(made, "agree()") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_find_themselves_by_every_name_that_people_read(pair: Pool, rank: int) -> None:
    """torch's, mpirun's, DeepSpeed's and DJL's."""
    mine = ("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
    size = ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "TENSOR_PARALLEL_DEGREE", "OMPI_COMM_WORLD_SIZE")
    code = f"(lambda both: (dist.all_gather_object(both, dict(os.environ)), both[{rank}])[1])([None, None])"
    environ = ask(pair, code)
    assert {environ[name] for name in mine} == {str(rank)}
    assert {environ[name] for name in size} == {"2"}
    assert (environ["MASTER_ADDR"], environ["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")


LISTENING = """[agree(), sorted(
    line.split()[1].split(":")[0]
    for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]
    if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == int(os.environ["MASTER_PORT"])
)]"""
"""On which addresses somebody listens at the group's port, as the kernel writes them."""


def test_ranks_meet_on_loopback_alone(supervisor: Supervisor, tmp_path: Path) -> None:
    """torch's store would listen on all interfaces, without a password; who meets anew meets there, too."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        assert ask(made, LISTENING) == [2, ["0100007F"]]
        ask(made, "dist.destroy_process_group()")  # in both, else rank 1 may go to the old store and lose it there
        assert ask(made, f"dist.init_process_group('gloo') or {LISTENING}") == [2, ["0100007F"]]


def test_a_group_meets_anew_beside_a_store_that_somebody_kept(supervisor: Supervisor, tmp_path: Path) -> None:
    """Its port is taken, by torch's own store in the same process. Two ranks would read where the others once were."""
    keep = "globals().update(kept=dist.distributed_c10d._get_default_store())"
    with groups(supervisor, ranked_launch(tmp_path, ranks=1)) as made:
        ask(made, f"{keep} or dist.destroy_process_group()")
        assert ask(made, f"dist.init_process_group('gloo') or {LISTENING}") == [1, ["0100007F"]]


def test_all_ranks_draw_the_same_numbers_and_others_for_the_next_request(pair: Pool) -> None:
    """Sampling would choose another token on each otherwise."""
    draw = "[random.random(), torch.rand(1).item(), __import__('numpy').random.rand()]"
    code = f"(lambda both: (dist.all_gather_object(both, {draw}), both)[1])([None, None])"
    first, second = ask(pair, code)
    assert first == second
    assert ask(pair, code)[0] != first


def test_what_a_group_holds_is_the_sum_over_its_ranks(pair: Pool) -> None:
    """Rank 1 alone keeps 64 MiB."""
    before = pair.held_bytes()
    ask(pair, "globals().update(kept=b'x' * (64 << 20) if rank else b'') or agree()")
    assert pair.held_bytes() - before > 60 << 20
    ask(pair, "[globals().pop('kept'), 0][1]")


def test_large_bodies_go_to_every_rank(pair: Pool) -> None:
    """Through shared memory, as to a worker."""
    assert ask(pair, "[agree(), len(inputs.get_as_bytes())]" + " " * 300_000)[1] > 300_000


def test_a_sagemaker_script_may_be_a_group_too(supervisor: Supervisor, tmp_path: Path) -> None:
    """It finds its rank in the environment."""
    with groups(supervisor, launch_of(tmp_path, ranks=2)) as made:
        code = "(open('rank-' + os.environ['RANK'], 'w').close(), [os.environ['RANK'], os.environ['WORLD_SIZE']])[1]"
        assert ask(made, code) == ["0", "2"]
        assert {each.name for each in tmp_path.glob("rank-*")} == {"rank-0", "rank-1"}


def test_an_error_of_all_ranks_leaves_the_group_alone(pair: Pool) -> None:
    """A request that nobody can answer is the client's trouble."""
    before = pids(pair)
    status, text = ask(pair, "fail(0, 1)")
    assert (status, "rank 0 was asked to fail" in text) == (424, True)
    assert (ask(pair, "agree()"), pids(pair)) == (2, before)


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_streams_go_in_step(pair: Pool) -> None:
    """Rank 0's chunks are the answer."""
    assert b"".join(send(pair, "stream(20)").chunks or ()).split()[-1] == b"19:2"


@pytest.mark.parametrize("read", [0, 1, 5])
def test_a_client_that_leaves_stops_all_ranks_at_one_chunk(pair: Pool, read: int) -> None:
    """Nobody is left in a collective operation: the group answers on."""
    before = pids(pair)
    chunks: Any = send(pair, "stream(1000)").chunks
    for _ in range(read):
        next(chunks)
    chunks.close()
    assert (ask(pair, "agree()"), pids(pair)) == (2, before)


def test_a_group_that_is_unloaded_in_mid_stream_says_farewell(supervisor: Supervisor, tmp_path: Path) -> None:
    """Its ranks end by themselves: nobody waits three seconds and kills them."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        (group,) = made._live
        assert isinstance(group, Group)
        chunks: Any = send(made, "stream(1000)").chunks
        next(chunks)
        made.close()
        assert [each.process.status for each in group._ranks] == [0, 0]


def test_a_stream_of_rank_0_alone_is_a_stream(pair: Pool) -> None:
    """And one that rank 0 does not send is ended."""
    alone = "Output().add_stream_content(iter('abc'), None) if rank == {} else None"
    assert b"".join(send(pair, alone.format(0)).chunks or ()) == b"abc"
    reply = send(pair, alone.format(1))
    assert (reply.status, reply.chunks) == (200, None)
    assert ask(pair, "agree()") == 2


def test_a_stream_that_fails_in_all_ranks_breaks_off(pair: Pool) -> None:
    """With the reason, and the group stays."""
    before = pids(pair)
    chunks: Any = send(pair, "stream(9, lambda step: fail(*[0, 1] * (step == 3)))").chunks
    with pytest.raises(ModelFailedError, match=r"\(rank 0\) failed: ValueError: rank 0 was asked to fail"):
        b"".join(chunks)
    assert (ask(pair, "agree()"), pids(pair)) == (2, before)


# ---- death -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_idle_takes_the_other_along(supervisor: Supervisor, tmp_path: Path, rank: int) -> None:
    """And the next generation is there at once."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        before = pids(made)
        os.kill(before[rank], signal.SIGKILL)
        until(lambda: not any(map(is_alive, before)))
        is_back(made)


@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_for_a_group_hears_of_a_death_within_a_second(
    supervisor: Supervisor, tmp_path: Path, rank: int
) -> None:
    """503, with the rank and how it ended, though the other one waits in a collective."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        before = pids(made)
        with in_background(lambda: ask(made, f"begun() or (time.sleep(60) if rank == {rank} else agree())")) as answers:
            until(lambda: all((tmp_path / f"begun-{each}").exists() for each in (0, 1)))
            os.kill(before[rank], signal.SIGKILL)
            died = time.monotonic()
            until(lambda: answers[0] is not None)
            assert time.monotonic() - died < 1
        assert isinstance(answers[0], UnavailableError)
        assert f"(rank {rank})" in answers[0].message
        assert "signal 9" in answers[0].message
        assert not any(map(is_alive, before))
        is_back(made)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_death_in_mid_stream_breaks_it_off(supervisor: Supervisor, tmp_path: Path, rank: int) -> None:
    """Within a second, too."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        chunks: Any = send(made, "stream(1000000)").chunks
        assert next(chunks) == b"0:2 "
        os.kill(pids(made)[rank], signal.SIGKILL)
        died = time.monotonic()
        with pytest.raises(UnavailableError, match=rf"\(rank {rank}\) lost its worker"):
            b"".join(chunks)
        assert time.monotonic() - died < 1
        is_back(made)


@pytest.mark.parametrize("code", ["agree()", "stream(1000000)"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_ended_at_the_deadline(
    supervisor: Supervisor, tmp_path: Path, rank: int, code: str
) -> None:
    """With the other, and its memory."""
    with groups(supervisor, ranked_launch(tmp_path), predict_timeout_s=0.5) as made:
        before = pids(made)
        os.kill(before[rank], signal.SIGSTOP)
        with pytest.raises(UnavailableError, match=r"did not answer in time \(rank .* of 2\)"):
            b"".join(send(made, code).chunks or ())
        assert not any(map(is_alive, before))
        is_back(made)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_alone_ends_the_group(supervisor: Supervisor, tmp_path: Path, rank: int) -> None:
    """The other waits for it in a collective: the caller gets the exception soon, and a new group the next request."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        before = pids(made)
        began = time.monotonic()
        try:
            status, text = ask(made, f"fail({rank}) or agree()")
        except ModelFailedError as error:
            status, text = error.status, error.message
        assert (status, f"rank {rank} was asked to fail" in text) == (424, True)
        assert time.monotonic() - began < 2
        until(lambda: not any(map(is_alive, before)))
        is_back(made)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_fails_alone_in_mid_stream_ends_the_group(
    supervisor: Supervisor, tmp_path: Path, rank: int
) -> None:
    """The stream breaks off with the exception."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        chunks: Any = send(made, f"stream(9, lambda step: fail(*[{rank}] * (step == 3)))").chunks
        with pytest.raises(ModelFailedError, match=rf"\(rank {rank}\) failed: ValueError"):
            b"".join(chunks)
        is_back(made)


def test_a_rank_that_exits_takes_the_group_along(supervisor: Supervisor, tmp_path: Path) -> None:
    """sys.exit means the process, and the process is the group's."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        with pytest.raises(UnavailableError, match=r"sys.exit\(3\)"):
            ask(made, "sys.exit(3) if rank else agree()")
        is_back(made)


def test_a_client_that_leaves_a_stream_that_hangs_costs_the_group(supervisor: Supervisor, tmp_path: Path) -> None:
    """Who does not come to its next chunk soon is ended."""
    with groups(supervisor, ranked_launch(tmp_path)) as made:
        chunks: Any = send(made, "stream(9, lambda step: step == 2 and time.sleep(60))").chunks
        next(chunks)
        next(chunks)
        chunks.close()
        is_back(made)


# ---- load ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_cannot_load_is_the_answer_to_the_load(supervisor: Supervisor, tmp_path: Path, rank: int) -> None:
    """The one that failed is named, though the other waited for it at the rendezvous."""
    with (
        pytest.raises(LoadFailedError, match=rf"(?s)\(rank {rank}\) failed to load: .*rank {rank} was asked to fail"),
        groups(supervisor, ranked_launch(tmp_path, at_load=f"fail({rank})")),
    ):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_while_it_loads_ends_the_load(supervisor: Supervisor, tmp_path: Path, rank: int) -> None:
    """At once."""
    launch = ranked_launch(tmp_path, at_load=f"rank == {rank} and os.kill(os.getpid(), 9)")
    with pytest.raises(LoadFailedError, match=rf"\(rank {rank}\) .* killed by signal 9"), groups(supervisor, launch):
        pass


def test_a_load_ends_at_its_deadline_in_all_ranks(supervisor: Supervisor, tmp_path: Path) -> None:
    """One that hangs is not waited for."""
    launch = ranked_launch(tmp_path, at_load="open(f'pid-{os.getpid()}', 'w'); rank and time.sleep(60)")
    with pytest.raises(DeadlineExceededError, match="still loading"), groups(supervisor, launch, load_timeout_s=1):
        pass
    for file in tmp_path.glob("pid-*"):
        assert not is_alive(int(file.name.removeprefix("pid-")))


def test_shared_memory_of_the_ranks_goes_with_them(supervisor: Supervisor, tmp_path: Path) -> None:
    """DeepSpeed's buffers, named by the port, and torch's tensors, by process; what is others' stays."""
    code = """[
        open(f"/dev/shm/deepspeed_allreduce_buffer_0_127.0.0.1_{os.environ['MASTER_PORT']}_{rank}", "w").close(),
        open(f"/dev/shm/torch_{os.getpid()}_1_0", "w").close(),
        [os.getpid(), os.environ["MASTER_PORT"]]][2]"""
    other = SHARED / "deepspeed_allreduce_buffer_0_127.0.0.1_1_0"
    other.touch()
    try:
        with groups(supervisor, ranked_launch(tmp_path)) as made:
            pid, port = ask(made, code)
            assert len(list(SHARED.glob(f"deepspeed_*_{port}_*"))) == 2
            os.kill(pid, signal.SIGKILL)
            until(lambda: not list(SHARED.glob(f"deepspeed_*_{port}_*")) + list(SHARED.glob(f"torch_{pid}_*")))
            is_back(made)
        assert other.exists()
    finally:
        other.unlink()
