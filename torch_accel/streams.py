"""torch.accel: streams and events, as torch.Stream and torch.Event with the device filled in."""

import torch
from torch.types import Device

from torch_accel import _C
from torch_accel._utils import _get_device_index

# Not torch._C._autograd.DeviceType.PrivateUse1: the constructor of torch.Stream takes an int.
_DEVICE_TYPE = int(torch._C._autograd.DeviceType.PrivateUse1)


class Stream(torch.Stream):
    """A queue of work on a device. A lower `priority` (0 or negative) is served first.

    `Stream(stream_id=…, device_index=…, device_type=…)` names an existing stream.
    """

    def __new__(cls, device: Device = None, priority: int = 0, **existing):
        if existing:
            return super().__new__(cls, **existing)
        index = _get_device_index(device, optional=True)
        return super().__new__(cls, torch.device("accel", index), priority=priority)

    def __repr__(self) -> str:
        return f"<torch.accel.Stream device={self.device} stream_id={self.stream_id}>"


class _EventType(type(torch.Event)):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch.Event) and instance.device.type == "accel"


class Event(torch.Event, metaclass=_EventType):
    """A mark in a stream. Two made with `enable_timing` tell the milliseconds between them."""

    def __new__(
        cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ):
        if interprocess:
            raise RuntimeError("accel events cannot be shared between processes")
        # A plain torch.Event: elapsed_time() does not take events of a subclass.
        device = torch.device("accel", torch._C._accelerator_getDeviceIndex())
        return torch.Event(device, enable_timing=enable_timing, blocking=blocking)


def _wrap(stream: torch.Stream) -> Stream:
    return Stream(
        stream_id=stream.stream_id,
        device_index=stream.device_index,
        device_type=stream.device_type,
    )


def current_stream(device: Device = None) -> Stream:
    """The calling thread's current stream of `device`."""
    return _wrap(torch._C._accelerator_getStream(_get_device_index(device, optional=True)))


def default_stream(device: Device = None) -> Stream:
    """The stream that every thread starts with."""
    return _wrap(_C.default_stream(_get_device_index(device, optional=True)))


def set_stream(stream: torch.Stream | None) -> None:
    """Makes `stream` the calling thread's current one, and its device the current device."""
    if stream is not None:
        torch._C._accelerator_setStream(stream)


def _set_stream_by_id(stream_id: int, device_index: int, device_type: int = _DEVICE_TYPE) -> None:
    set_stream(Stream(stream_id=stream_id, device_index=device_index, device_type=device_type))


class StreamContext:
    """Context manager that makes `stream` current, and restores device and stream afterwards.
    None does nothing."""

    def __init__(self, stream: torch.Stream | None):
        self.stream = stream

    def __enter__(self) -> "StreamContext":
        if self.stream is not None:
            self._device = torch._C._accelerator_getDeviceIndex()
            self._previous = torch._C._accelerator_getStream(self.stream.device_index)
            set_stream(self.stream)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.stream is not None:
            set_stream(self._previous)
            torch._C._accelerator_setDeviceIndex(self._device)


def stream(stream: torch.Stream | None) -> StreamContext:
    """`with torch.accel.stream(s):` runs the block's work on `s`."""
    return StreamContext(stream)
