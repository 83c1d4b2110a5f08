"""Runs functions on several ranks. The processes stay between calls, since starting one costs
seconds; the process group is new for each call.

ACCEL_TEST_DEVICE=cpu runs the same tests on the CPU and Gloo: what fails there is not ours.
"""

import gc
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path

import torch
from torch import distributed

MAXIMUM = 4
DEVICE = os.environ.get("ACCEL_TEST_DEVICE", "accel")
BACKENDS = {"cpu": "gloo", "accel": "accl"}


@dataclass(frozen=True)
class Place:
    """Where a function runs: its first argument."""

    rank: int
    ranks: int
    device: torch.device
    store: str  # the file behind the Store by which the ranks meet

    @property
    def backend(self) -> str:
        return BACKENDS[self.device.type]

    def join(self, timeout: float = 120) -> None:
        """Makes this process a member of the default group."""
        distributed.init_process_group(
            f"cpu:gloo,accel:{self.backend}" if self.device.type == "accel" else self.backend,
            store=distributed.FileStore(self.store, self.ranks),
            rank=self.rank,
            world_size=self.ranks,
            timeout=timedelta(seconds=timeout),
        )


class RankError(AssertionError):
    """What went wrong on which rank."""


class Ranks:
    """ranks(function, *arguments) calls function(place, *arguments) on each rank, within a process
    group unless `join=False`, and returns the results in order.

    Functions are found by name, so they stand at the top of a module; arguments and results are
    pickled. If a rank raises, dies or does not answer in time, RankError tells what every rank
    said, and the processes are ended.
    """

    def __init__(self, **environment: str):
        self._environment = {
            "OMP_NUM_THREADS": "1",
            "ACCEL_DEVICE_COUNT": str(MAXIMUM),
            **environment,
        }
        self._processes: list[tuple[multiprocessing.Process, connection.Connection]] = []

    def __call__(
        self,
        function: Callable,
        *arguments: object,
        ranks: int = 2,
        join: bool = True,
        timeout: float = 300,
    ) -> list:
        self._start(ranks)
        connections = [end for _, end in self._processes[:ranks]]
        with tempfile.TemporaryDirectory() as folder:
            for rank, end in enumerate(connections):
                device = torch.device(DEVICE, rank) if DEVICE != "cpu" else torch.device("cpu")
                place = Place(rank, ranks, device, str(Path(folder) / "store"))
                end.send_bytes(pickle.dumps((function, place, arguments, join)))
            try:
                return self._answers(function.__name__, connections, timeout)
            except RankError:
                self.close()
                raise

    def _answers(self, name: str, connections: list, timeout: float) -> list:
        results: dict[int, object] = {}
        failures: dict[int, str] = {}
        deadline = time.monotonic() + timeout
        while waiting := [
            end
            for rank, end in enumerate(connections)
            if rank not in results and rank not in failures
        ]:
            ready = connection.wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                for end in waiting:
                    failures[connections.index(end)] = "no answer"
            for end in ready:
                rank = connections.index(end)
                try:
                    succeeded, value = pickle.loads(end.recv_bytes())
                except EOFError:
                    succeeded, value = False, "has died"
                if succeeded:
                    results[rank] = value
                else:
                    failures[rank] = value
                    # The others may wait for this one, and may have more to say.
                    deadline = min(deadline, time.monotonic() + 5)
        if failures:
            said = (f"rank {rank}: {failures[rank]}" for rank in sorted(failures))
            raise RankError(f"{name} failed\n" + "\n".join(said))
        return [results[rank] for rank in range(len(connections))]

    def _start(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        before = dict(os.environ)
        os.environ.update(self._environment)
        try:
            while len(self._processes) < count:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there,), daemon=True)
                process.start()
                there.close()
                self._processes.append((process, here))
        finally:
            os.environ.clear()
            os.environ.update(before)

    def close(self) -> None:
        """Ends the processes."""
        for process, end in self._processes:
            end.close()
            process.kill()
            process.join()
        self._processes = []


def _serve(requests: connection.Connection) -> None:
    """A rank: answers each request with (True, result) or (False, the traceback)."""
    torch.set_num_threads(1)
    while True:
        try:
            function, place, arguments, join = pickle.loads(requests.recv_bytes())
        except EOFError:
            return
        try:
            answer = True, _call(function, place, arguments, join)
        except BaseException:
            answer = False, traceback.format_exc()
        requests.send_bytes(pickle.dumps(answer))


def _call(function: Callable, place: Place, arguments: tuple, join: bool) -> object:
    torch.manual_seed(0)
    if place.device.type != "cpu":
        torch.accelerator.set_device_index(place.device.index)
    if join:
        place.join()
    result = function(place, *arguments)
    gc.collect()  # wrappers of models hold groups, in cycles
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return result
