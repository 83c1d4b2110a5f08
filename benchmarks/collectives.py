"""All-reduce of accl against Gloo on the CPU, and against a copy of the same bytes, in turn: ranks
of this host, one thread each.

    python benchmarks/collectives.py [--ranks 2] [--rounds 10]
    python benchmarks/collectives.py --ranks 4 --hosts 2    # this machine plays two hosts
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import distributed as dist
from torch import multiprocessing

SIZES = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 32 << 20, 128 << 20]


def seconds(operation, turns: int) -> float:
    dist.barrier()
    start = time.perf_counter()
    for _ in range(turns):
        operation()
    torch.accel.synchronize()
    return (time.perf_counter() - start) / turns


def run(rank: int, ranks: int, hosts: int, store: str, rounds: int) -> None:
    torch.set_num_threads(1)
    os.environ["ACCEL_HOST_ID"] = str(rank * hosts // ranks)
    dist.init_process_group(
        "cpu:gloo,accel:accl", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks
    )
    if rank == 0:
        print("minimum / median of all-reduce, ms; copy: memcpy of as many bytes on one thread")
        print(f"{'KiB':>8} {'accl':>15} {'gloo':>17} {'gloo/accl':>13} {'copy':>8}")
    for size in SIZES:
        on_accel = torch.ones(size // 4, device="accel")
        on_cpu, other = torch.ones(size // 4), torch.ones(size // 4)
        operations = {
            "accl": partial(dist.all_reduce, on_accel, dist.ReduceOp.MAX),
            "gloo": partial(dist.all_reduce, on_cpu, dist.ReduceOp.MAX),
            "copy": partial(other.copy_, on_cpu),
        }
        turns = max(1, min(100, (8 << 20) // size))
        times: dict[str, list[float]] = {name: [] for name in operations}
        for turn in range(rounds + 1):
            for name, operation in operations.items():
                milliseconds = seconds(operation, turns) * 1e3
                if turn > 0:  # the first turn touches the memory
                    times[name].append(milliseconds)
        if rank == 0:
            least = {name: min(values) for name, values in times.items()}
            middle = {name: statistics.median(values) for name, values in times.items()}
            print(
                f"{size >> 10:8} {least['accl']:7.3f}/{middle['accl']:7.3f} "
                f"{least['gloo']:8.3f}/{middle['gloo']:8.3f} "
                f"{least['gloo'] / least['accl']:5.1f}x/{middle['gloo'] / middle['accl']:5.1f}x "
                f"{least['copy']:8.3f}",
                flush=True,
            )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        arguments = (options.ranks, options.hosts, store, options.rounds)
        multiprocessing.spawn(run, arguments, nprocs=options.ranks, join=True)


if __name__ == "__main__":
    main()
