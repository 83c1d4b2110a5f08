"""torch.accel: memory statistics and the caching allocator's cache. All figures are bytes and come
from the allocator by way of torch.accelerator."""

from typing import Any

import torch
from torch.types import Device

from torch_accel import _C
from torch_accel._utils import _get_device_index


def empty_cache() -> None:
    """Returns the memory that no tensor uses to the system."""
    torch.accelerator.empty_cache()


def memory_stats(device: Device = None) -> dict[str, Any]:
    """The allocator's statistics, flat: "allocated_bytes.all.peak" and so on (as torch.cuda's)."""
    return torch.accelerator.memory_stats(_get_device_index(device, optional=True))


def memory_stats_as_nested_dict(device: Device = None) -> dict[str, Any]:
    """The allocator's statistics as nested dictionaries."""
    return torch._C._accelerator_getDeviceStats(_get_device_index(device, optional=True))


def memory_allocated(device: Device = None) -> int:
    """Memory that tensors use now."""
    return memory_stats(device).get("allocated_bytes.all.current", 0)


def max_memory_allocated(device: Device = None) -> int:
    """The most memory that tensors used at once, since the start or reset_peak_memory_stats()."""
    return memory_stats(device).get("allocated_bytes.all.peak", 0)


def memory_reserved(device: Device = None) -> int:
    """Memory that the allocator holds: in use and cached."""
    return memory_stats(device).get("reserved_bytes.all.current", 0)


def max_memory_reserved(device: Device = None) -> int:
    """The most memory that the allocator held at once."""
    return memory_stats(device).get("reserved_bytes.all.peak", 0)


def reset_accumulated_memory_stats(device: Device = None) -> None:
    """Sets the statistics that only grow to zero."""
    torch.accelerator.reset_accumulated_memory_stats(_get_device_index(device, optional=True))


def reset_peak_memory_stats(device: Device = None) -> None:
    """Sets all peaks to the current values."""
    torch.accelerator.reset_peak_memory_stats(_get_device_index(device, optional=True))


def reset_max_memory_allocated(device: Device = None) -> None:
    """The same as reset_peak_memory_stats(); an old name that torch.cuda keeps too."""
    reset_peak_memory_stats(device)


def mem_get_info(device: Device = None) -> tuple[int, int]:
    """Free memory and capacity of the device."""
    return torch.accelerator.get_memory_info(_get_device_index(device, optional=True))


def set_per_process_memory_fraction(fraction: float, device: Device = None) -> None:
    """Bounds what the allocator takes to a fraction in (0, 1] of the device's memory."""
    _C.set_memory_fraction(fraction, _get_device_index(device, optional=True))


def memory_snapshot(device: Device = None) -> list[dict[str, Any]]:
    """The allocator's arenas with their blocks: address, size, and whether a tensor uses it."""
    return _C.memory_snapshot(_get_device_index(device, optional=True))


def memory_summary(device: Device = None, abbreviated: bool = False) -> str:
    """A table of memory_stats(); `abbreviated` leaves the small and large pools out."""
    stats = memory_stats(device)
    free, total = mem_get_info(device)
    rows = [
        ("allocated_bytes", "allocated memory", True),
        ("active_bytes", "active memory", True),
        ("reserved_bytes", "reserved memory", True),
        ("inactive_split_bytes", "inactive memory", True),
        ("allocated", "allocations", False),
        ("segment", "arenas", False),
    ]
    pools = [("all", "")] + (
        [] if abbreviated else [("large_pool", "  large"), ("small_pool", "  small")]
    )
    columns = ("current", "peak", "allocated", "freed")
    lines = [
        f"accel:{_get_device_index(device, optional=True)}: "
        f"{_mebibytes(total - free)} of {_mebibytes(total)} in use, "
        f"{stats.get('num_ooms', 0)} out-of-memory errors, "
        f"{stats.get('num_alloc_retries', 0)} cache flushes",
        f"{'':<20}" + "".join(f"{column:>15}" for column in columns),
    ]
    for key, title, is_bytes in rows:
        for pool, pool_title in pools:
            values = [stats.get(f"{key}.{pool}.{column}", 0) for column in columns]
            cells = [_mebibytes(value) if is_bytes else f"{value:,}" for value in values]
            lines.append(f"{pool_title or title:<20}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _mebibytes(value: int) -> str:
    return f"{value / 2**20:,.1f} MiB"
