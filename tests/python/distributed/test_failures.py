"""Ranks that die, stop, disagree or end early: the others raise within the timeout, with the
operation, its number and who is missing, and nothing stays in shared memory. ACCEL_TEST_KILLS=50
kills more often."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

KILLS = int(os.environ.get("ACCEL_TEST_KILLS", "3"))

PRELUDE = """
import os, random, sys, time
from datetime import timedelta
import torch
from torch import distributed as dist

rank, ranks, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def join(timeout=30, ranks=ranks, rank=rank):
    dist.init_process_group(
        "accl", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks,
        timeout=timedelta(seconds=timeout),
    )

"""


class Processes:
    """The same program on some ranks, each in a process of its own."""

    def __init__(self, folder: Path, program: str, ranks: int = 2, **environment: str):
        source = PRELUDE + textwrap.dedent(program)
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", source, str(rank), str(ranks), str(folder / "store")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            )
            for rank in range(ranks)
        ]

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()

    def await_line(self, rank: int, line: str) -> None:
        for said in self.processes[rank].stdout:
            if said.strip() == line:
                return
        raise AssertionError(f"rank {rank} ended: {self.processes[rank].stderr.read()}")

    def end(self, rank: int, timeout: float = 90) -> tuple[int, str, str]:
        """The exit code, and what was written to stdout and stderr."""
        process = self.processes[rank]
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err


@pytest.fixture(autouse=True)
def _nothing_stays():
    before = set(os.listdir("/dev/shm"))
    yield
    left = {name for name in set(os.listdir("/dev/shm")) - before if "accl" in name}
    assert not left


REDUCE_FOR_EVER = """
join(timeout=60)
sizes = [1, 1000, 100_000, 3_000_000]
turns = random.Random(0)
for turn in range(1_000_000):
    tensor = torch.ones(turns.choice(sizes), device="accel")
    dist.all_reduce(tensor)
    tensor[0].item()
    if turn == 5:
        print("ready", flush=True)
"""


@pytest.mark.parametrize("turn", range(KILLS))
def test_a_killed_rank_is_named(tmp_path, turn):
    with Processes(tmp_path, REDUCE_FOR_EVER, ranks=2 + turn % 2) as ranks:
        ranks.await_line(1, "ready")
        ranks.await_line(0, "ready")
        timer = random.Random(turn)
        with pytest.raises(subprocess.TimeoutExpired):
            ranks.processes[1].wait(timeout=timer.random() * 0.2)
        ranks.processes[1].kill()
        for rank in range(len(ranks.processes)):
            if rank == 1:
                continue
            status, _, error = ranks.end(rank)
            assert status == 1, error
            assert "DistBackendError" in error and "rank 1 has died" in error, error
            assert "all_reduce, sequence number" in error or "has failed" in error, error


@pytest.mark.parametrize("victim", [2, 3], ids=["leader", "other"])
def test_a_killed_rank_ends_the_wait_of_another_host(tmp_path, victim):
    program = 'os.environ["ACCEL_HOST_ID"] = "aabb"[rank]\n' + REDUCE_FOR_EVER
    with Processes(tmp_path, program, ranks=4) as ranks:
        for rank in range(4):
            ranks.await_line(rank, "ready")
        ranks.processes[victim].kill()
        for rank in {0, 1, 2, 3} - {victim}:
            status, _, error = ranks.end(rank, timeout=30)  # the group's own is longer
            assert status == 1, error
            assert "DistBackendError" in error, error
            assert "all_reduce, sequence number" in error or "has failed" in error, error
            if rank >= 2:
                assert f"rank {victim} has died" in error, error


def test_a_stopped_rank_is_named_after_the_timeout(tmp_path):
    program = REDUCE_FOR_EVER.replace("timeout=60", "timeout=3")
    with Processes(tmp_path, program) as ranks:
        ranks.await_line(1, "ready")
        ranks.processes[1].send_signal(signal.SIGSTOP)
        status, _, error = ranks.end(0)
        assert status == 1, error
        assert "Timed out waiting 3000ms" in error and "rank 1" in error, error
        ranks.processes[1].send_signal(signal.SIGCONT)
        status, _, error = ranks.end(1)
        assert status == 1 and "rank 0: Timed out" in error, error


@pytest.mark.parametrize("turn", range(KILLS))
def test_what_a_stopped_rank_writes_later_is_lost(tmp_path, turn):
    """It stops in the middle of a collective that is in place; the other gives up, uses the memory
    for something else, and then the first goes on."""
    program = """
    join(timeout=2)
    tensor = torch.ones(8 << 20, device="accel")
    memory = tensor.data_ptr()
    try:
        for turn in range(1_000_000):
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
            torch.accel.synchronize()
            if turn == 5:
                print("ready", flush=True)
    except dist.DistBackendError as error:
        assert "Timed out" in str(error), error
    tensor.fill_(rank + 7)
    torch.accel.synchronize()
    print("gave up", flush=True)
    sys.stdin.readline()
    assert tensor.data_ptr() == memory
    assert (tensor == rank + 7).all().item()
    """
    with Processes(tmp_path, program) as ranks:
        for rank in range(2):
            ranks.await_line(rank, "ready")
        with pytest.raises(subprocess.TimeoutExpired):
            ranks.processes[1].wait(timeout=random.Random(turn).random() * 0.1)
        ranks.processes[1].send_signal(signal.SIGSTOP)
        ranks.await_line(0, "gave up")
        ranks.processes[1].send_signal(signal.SIGCONT)
        ranks.await_line(1, "gave up")
        for rank in range(2):
            ranks.processes[rank].stdin.write("\n")
            status, _, error = ranks.end(rank)
            assert status == 0, error


def test_the_exit_with_work_queued_is_clean(tmp_path):
    program = """
    join()
    for _ in range(20):
        dist.all_reduce(torch.ones(1_000_000, device="accel"), async_op=True)
    print("end", flush=True)
    """
    with Processes(tmp_path, program) as ranks:
        for rank in range(2):
            status, out, error = ranks.end(rank)
            assert status == 0 and out == "end\n", error


def test_the_exit_without_the_other_is_clean(tmp_path):
    program = """
    join()
    dist.barrier()
    if rank == 0:
        works = [dist.all_reduce(torch.ones(10, device="accel"), async_op=True) for _ in range(3)]
    else:
        time.sleep(8)
    print("end", flush=True)
    """
    with Processes(tmp_path, program) as ranks:
        for rank in range(2):
            status, out, error = ranks.end(rank)
            assert status == 0 and out == "end\n", error


def test_an_absent_rank_is_named(tmp_path):
    with Processes(tmp_path, "join(timeout=2, ranks=2)", ranks=1) as ranks:
        status, _, error = ranks.end(0)
        assert status == 1 and "nothing was heard of rank(s) 1" in error, error


def test_without_shared_memory_every_rank_is_told(tmp_path):
    program = """
    import resource
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    join(timeout=20)
    """
    with Processes(tmp_path, program) as ranks:
        status, _, error = ranks.end(0)
        assert status == 1 and "no shared memory" in error and "File too large" in error, error
        status, _, error = ranks.end(1)
        assert status == 1 and "could not make the shared memory" in error, error


def test_the_flight_record_is_written(tmp_path):
    program = """
    join(timeout=2)
    tensor = torch.ones(3, device="accel")
    dist.all_reduce(tensor)
    if rank == 0:
        dist.broadcast(tensor, 0)
        dist.barrier()
    else:
        time.sleep(5)
    """
    name = str(tmp_path / "record-%p.json")
    with Processes(tmp_path, program, ACCEL_FLIGHT_RECORD=name) as ranks:
        process = ranks.processes[0].pid
        status, _, error = ranks.end(0)
        assert status == 1, error
        entries = json.loads((tmp_path / f"record-{process}.json").read_text())
    states = {entry["operation"]: entry["state"] for entry in entries}
    assert states == {"all_reduce": "done", "broadcast": "done", "barrier": "failed"}
    barrier = next(entry for entry in entries if entry["operation"] == "barrier")
    assert barrier["sequence"] == 3 and "rank 1 is missing" in barrier["error"]


# ---- within one process each: ranks that stay ----


def raises(function, *parts: str) -> None:
    def run() -> None:
        function()
        torch.accelerator.synchronize()

    raises_at_once(run, *parts)


def raises_at_once(function, *parts: str) -> None:
    with pytest.raises(dist.DistBackendError) as caught:
        function()
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def mismatched_sizes(place):
    tensor = torch.ones(10 + place.rank, device=place.device)
    raises(
        lambda: dist.all_reduce(tensor),
        "all_reduce, sequence number 1",
        "10 elements of Float",
        "11 elements of Float",
    )


def mismatched_dtypes(place):
    tensor = torch.ones(10, device=place.device, dtype=[torch.float32, torch.int32][place.rank])
    raises(lambda: dist.all_reduce(tensor), "10 elements of Float", "10 elements of Int")


def mismatched_collectives(place):
    tensor = torch.ones(10, device=place.device)

    def run():
        if place.rank == 0:
            dist.all_reduce(tensor)
        else:
            dist.broadcast(tensor, 0)

    raises(run, "all_reduce(10 elements of Float, SUM)", "broadcast(10 elements of Float, root 0)")


def mismatched_splits(place):
    received = torch.empty(4, device=place.device)
    sent = torch.ones(4, device=place.device)
    splits = [[1, 3], [3, 1]][place.rank]
    raises(lambda: dist.all_to_all_single(received, sent, splits, [2, 2]), "the ranks do not agree")


def mismatched_message(place):
    if place.rank == 0:
        dist.send(torch.ones(3, device=place.device), 1)
    else:
        raises(
            lambda: dist.recv(torch.ones(4, device=place.device), 0),
            "rank 0 sent 3 elements of Float, expected 4 of Float",
        )


def a_fault_on_one_rank_reaches_the_others(place):
    tensor = torch.ones(4, device=place.device)
    if place.rank == 0:
        tensor = tensor[torch.tensor([9], device=place.device)].sum()
        with pytest.raises(IndexError, match="out of range"):
            dist.all_reduce(tensor)
            tensor.item()
    else:
        raises(
            lambda: dist.all_reduce(tensor.sum()),
            "rank 0 did not come to all_reduce, sequence number 1",
            "index 9 is out of range",
        )


def an_aborted_group_has_failed(place):
    tensor = torch.ones(4, device=place.device)
    if place.rank == 0:
        dist.barrier()
        dist.distributed_c10d._abort_process_group()
        return
    dist.barrier()
    raises(lambda: dist.all_reduce(tensor), "rank 0 has")


def a_late_rank_takes_part_while_its_host_waits(place):
    """Contract 5: what has been recorded needs no further call of the host."""
    tensor = torch.ones(1000, device=place.device)
    work = dist.all_reduce(tensor, async_op=True)
    store = dist.FileStore(place.store + ".other", place.ranks)
    if place.rank == 0:
        work.wait()
        assert tensor.sum().item() == 1000 * place.ranks
        store.set("done", "yes")
    else:
        store.wait(["done"])
    work.wait()


def a_wait_with_a_timeout_returns(place):
    tensor = torch.ones(10, device=place.device)
    if place.rank == 0:
        work = dist.all_reduce(tensor, async_op=True)
        with pytest.raises(dist.DistBackendError, match="caught collective operation timeout"):
            work.wait(timedelta(milliseconds=100))
        dist.FileStore(place.store + ".other", 2).set("done", "yes")
        work.wait(timedelta(seconds=60))
    else:
        dist.FileStore(place.store + ".other", 2).wait(["done"])
        dist.all_reduce(tensor)
    assert tensor.sum().item() == 20


def what_a_stream_waits_for_is_complete_to_it(place):
    """PyTorch: is_completed() is true once the output can be used without further waiting."""
    tensor = torch.ones(10, device=place.device)
    store = dist.FileStore(place.store + ".other", 2)
    if place.rank == 0:
        work = dist.all_reduce(tensor, async_op=True)
        assert not work.is_completed()
        work.wait()
        assert work.is_completed() and not work.is_success()
        with torch.accel.stream(torch.accel.Stream()):
            assert not work.is_completed()
        store.set("done", "yes")
        assert tensor.sum().item() == 20
        assert work.is_completed() and work.is_success()
    else:
        store.wait(["done"])
        dist.all_reduce(tensor)


def a_collective_in_a_graph_is_refused(place):
    tensor = torch.ones(10, device=place.device)
    graph = torch.accelerator.Graph()
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), graph:
        tensor.add_(1)
        dist.all_reduce(tensor)


def a_tensor_of_the_cpu_is_refused(place):
    group = dist.group.WORLD._get_backend(place.device)
    with pytest.raises(ValueError, match="takes tensors of accel"):
        group.allreduce([torch.ones(1)])
    with pytest.raises(ValueError, match="ReduceOp.BAND is not defined for Float"):
        dist.all_reduce(torch.ones(1, device=place.device), dist.ReduceOp.BAND)


def ranks_that_are_not_there_are_refused(place):
    tensor = torch.ones(2, device=place.device)
    collectives = {
        "broadcast": lambda rank: dist.broadcast(tensor, rank),
        "reduce": lambda rank: dist.reduce(tensor, rank),
        "gather": lambda rank: dist.gather(tensor, None, rank),
        "scatter": lambda rank: dist.scatter(tensor, None, rank),
    }
    for name, call in collectives.items():
        for rank in (2, 1000, -1):
            with pytest.raises(ValueError, match=f"{name}: invalid root rank: {rank} in a group"):
                call(rank)
    for call in (dist.send, dist.recv):
        with pytest.raises(ValueError, match="invalid rank: 2 in a group of 2"):
            call(tensor, 2)
    # And the group is none the worse for it.
    dist.all_reduce(tensor)
    assert tensor.tolist() == [2, 2]


CASES = [
    mismatched_sizes,
    mismatched_dtypes,
    mismatched_collectives,
    mismatched_splits,
    mismatched_message,
    a_fault_on_one_rank_reaches_the_others,
    an_aborted_group_has_failed,
    a_late_rank_takes_part_while_its_host_waits,
    a_wait_with_a_timeout_returns,
    what_a_stream_waits_for_is_complete_to_it,
    a_collective_in_a_graph_is_refused,
    a_tensor_of_the_cpu_is_refused,
    ranks_that_are_not_there_are_refused,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_case(ranks, case):
    ranks(case)


# ---- barriers that tell who has not come ----


def a_monitored_barrier_names_the_missing(place):
    short, long = timedelta(milliseconds=300), timedelta(seconds=60)
    dist.monitored_barrier()
    dist.monitored_barrier(timeout=long, wait_all_ranks=True)
    store = dist.FileStore(place.store + ".other", 4)
    tensor = torch.ones(10, device=place.device)
    if place.rank == 0:
        work = dist.all_reduce(tensor, async_op=True)  # hangs meanwhile
        raises_at_once(
            lambda: dist.monitored_barrier(timeout=short),
            "Rank 0 timed out in monitoredBarrier: Rank 1 failed to pass monitoredBarrier in 300",
        )
        raises_at_once(
            lambda: dist.monitored_barrier(timeout=short, wait_all_ranks=True),
            "Ranks 1, 3 failed to pass monitoredBarrier",
        )
        raises_at_once(
            lambda: dist.group.WORLD.monitored_barrier(timedelta(0)),
            "Rank 0 timed out in monitoredBarrier",
        )
        store.set("late", "yes")
    else:
        if place.rank != 2:
            store.wait(["late"])
        for _ in range(3):
            raises_at_once(
                lambda: dist.monitored_barrier(timeout=long),
                f"Rank {place.rank} successfully reached monitoredBarrier, but received errors "
                "while waiting for send/recv from rank 0",
                "failed to pass monitoredBarrier",
            )
        work = dist.all_reduce(tensor, async_op=True)
    # The group is none the worse for it.
    work.wait()
    assert (tensor == 4).all().item()
    dist.monitored_barrier(timeout=long)
    group = dist.new_group([1, 3])
    dist.monitored_barrier(group, timeout=60.0)
    if place.rank == 1:
        raises_at_once(
            lambda: dist.monitored_barrier(group, short), "Rank 1 failed to pass monitoredBarrier"
        )


def test_a_monitored_barrier_names_the_missing(ranks):
    ranks(a_monitored_barrier_names_the_missing, ranks=4)
