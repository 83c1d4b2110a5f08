"""The process group "accl" of torch.distributed, and `torch.accel.distributed`. Registered as soon
as torch.distributed is imported; nobody has to ask for it."""

from types import ModuleType

from torch_accel import _C
from torch_accel._imports import when_imported


def register() -> None:
    when_imported("torch.distributed", _register_backend)


def flight_record() -> list[dict]:
    """The last operations of this process' groups, oldest first: what each one was, its sequence
    number, and its state: queued, running, done or failed (then "error" says why). Times are in
    seconds since the epoch. With ACCEL_FLIGHT_RECORD=path, where %p stands for the process id, the
    same is written to a file, as JSON, when an operation fails."""
    return _C.flight_record()


def _register_backend(distributed: ModuleType) -> None:
    if distributed.is_available() and "ACCL" not in dir(distributed.Backend):
        _C.bind_process_group()
        distributed.Backend.register_backend("accl", _create, extended_api=True, devices=["accel"])


def _make_gloo(store, rank, size, timeout):
    from torch.distributed import ProcessGroupGloo

    return ProcessGroupGloo(store, rank, size, timeout=timeout)


def _create(group, options=None):
    timeout = getattr(options, "_timeout", None) or group.timeout
    return _C.make_process_group(
        group.store,
        group.group_rank,
        group.group_size,
        timeout,
        list(group.global_ranks_in_group),
        group.group_id,
    )
