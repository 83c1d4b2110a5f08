"""What a rank that torchrun (or another launcher) started shares with the others of its host: the
cores. The number of devices follows LOCAL_WORLD_SIZE too, in csrc/runtime/host_driver.cpp."""

import os
import sys

import torch


def divide_cores() -> None:
    """Gives each local rank its part of the cores, unless the user has set OMP_NUM_THREADS, and
    says so once. torchrun by itself would give each rank one."""
    ranks = _number("LOCAL_WORLD_SIZE")
    if ranks < 2 or _chosen_by_user() or _has_cores_of_its_own():
        return
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // ranks)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if _number("LOCAL_RANK") == 0:
        print(
            f"[accel] {ranks} ranks share {cores} cores: {threads} threads each "
            f"(OMP_NUM_THREADS, when set, decides)",
            file=sys.stderr,
        )


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0


def _chosen_by_user() -> bool:
    """Whether OMP_NUM_THREADS is the user's. torchrun's agent, our parent, sets it to 1 when it is
    not; what the agent was started with says which."""
    if os.environ.get("OMP_NUM_THREADS") != "1" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return "OMP_NUM_THREADS" in os.environ
    try:
        with open(f"/proc/{os.getppid()}/environ", "rb") as file:
            return any(entry.startswith(b"OMP_NUM_THREADS=") for entry in file.read().split(b"\0"))
    except OSError:
        return True


def _has_cores_of_its_own() -> bool:
    """Whether the launcher has bound this rank to cores (torchrun --numa-binding)."""
    try:
        return os.sched_getaffinity(0) != os.sched_getaffinity(os.getppid())
    except OSError:
        return False
