"""Helpers of the torch.accel modules. torch.serialization and torch.distributed look up
`_get_device_index` here by name."""

import torch
from torch.types import Device


def _get_device_index(
    device: Device = None, optional: bool = False, allow_cpu: bool = False
) -> int:
    """The index that `device` (None, int, str, torch.device or torch.accel.device) names.

    Without an index it is the current device if `optional`, else a ValueError. A CPU device gives
    -1 if `allow_cpu`.
    """
    if isinstance(device, int):
        return device
    if isinstance(device, str):
        device = torch.device(device)
    if isinstance(device, torch.accel.device):
        return device.idx
    if isinstance(device, torch.device):
        if allow_cpu and device.type == "cpu":
            return -1
        if device.type != "accel":
            raise ValueError(f"Expected an accel device, but got: {device}")
        if device.index is not None:
            return device.index
    if not optional:
        raise ValueError(f"Expected a device with an index, but got: {device}")
    return torch._C._accelerator_getDeviceIndex()
