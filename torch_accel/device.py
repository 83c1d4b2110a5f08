"""torch.accel: devices, their properties, and initialisation."""

import torch
from torch.types import Device

from torch_accel import _C
from torch_accel._utils import _get_device_index


def _is_in_bad_fork() -> bool:
    """Whether this is a forked child of a process that had used the device, which cannot use it."""
    return _C.is_in_bad_fork()


def _lazy_init() -> None:
    """Called by PyTorch before the first use of the device. Raises in a forked child."""
    _C.initialize()


def init() -> None:
    """Initialises the device. PyTorch does it by itself at the first use."""
    _lazy_init()


def is_initialized() -> bool:
    """Whether the device has been initialised in this process."""
    return _C.is_initialized() and not _is_in_bad_fork()


def is_available() -> bool:
    """Whether there is a device."""
    return device_count() > 0


def device_count() -> int:
    """The number of devices: ACCEL_DEVICE_COUNT; by default one for each rank that torchrun started
    on this host (LOCAL_WORLD_SIZE), else one."""
    return _C.device_count()


def current_device() -> int:
    """The index of the calling thread's current device."""
    return torch._C._accelerator_getDeviceIndex()


def set_device(device: Device) -> None:
    """Makes `device` the current one of the calling thread; a negative index does nothing."""
    index = _get_device_index(device)
    if index >= 0:
        torch._C._accelerator_setDeviceIndex(index)


class device:  # noqa: N801 - the name of torch.cuda.device
    """Context manager that makes `device` current; None or a negative index does nothing."""

    def __init__(self, device: Device):
        self.idx = -1 if device is None else _get_device_index(device, optional=True)
        self.prev_idx = -1

    def __enter__(self) -> None:
        if self.idx >= 0:
            self.prev_idx = torch._C._accelerator_exchangeDevice(self.idx)

    def __exit__(self, *exception: object) -> None:
        if self.idx >= 0:
            torch._C._accelerator_maybeExchangeDevice(self.prev_idx)


class device_of(device):  # noqa: N801
    """Context manager that makes the device of `tensor` current, if it is an accel tensor."""

    def __init__(self, tensor: torch.Tensor | torch.UntypedStorage):
        super().__init__(tensor.get_device() if tensor.device.type == "accel" else None)


def synchronize(device: Device = None) -> None:
    """Waits for all work on all streams of `device`, and raises what failed on it."""
    torch._C._accelerator_synchronizeDevice(_get_device_index(device, optional=True))


def get_device_properties(device: Device = None):
    """Name, instruction set, memory in bytes and number of cores of `device`."""
    return _C.device_properties(_get_device_index(device, optional=True))


def get_device_name(device: Device = None) -> str:
    """The name of `device`."""
    return get_device_properties(device).name


def get_device_capability(device: Device = None) -> dict:
    """What torch.accelerator.get_device_capability() tells: the supported dtypes."""
    return torch.accelerator.get_device_capability(_get_device_index(device, optional=True))


def can_device_access_peer(device: Device, peer_device: Device) -> bool:
    """Whether kernels of `device` can read memory of `peer_device`: all share the host's memory."""
    for index in (_get_device_index(device), _get_device_index(peer_device)):
        if not 0 <= index < device_count():
            raise AssertionError(f"Invalid device id {index}: there are {device_count()} devices")
    return _get_device_index(device) != _get_device_index(peer_device)


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """bfloat16 works on every machine."""
    return True


def get_amp_supported_dtype() -> list[torch.dtype]:
    """The dtypes that torch.autocast("accel") takes."""
    return [torch.bfloat16, torch.float16]
