"""Tells TorchDynamo and inductor about the device. Importing them costs seconds, so the device is
registered when somebody else imports them."""

import torch

from torch_accel._imports import when_imported


def register() -> None:
    when_imported("torch._dynamo.device_interface", _register)
    when_imported("torch._inductor.compile_fx", _register_inductor)


def _register_inductor(_) -> None:
    from torch_accel import inductor

    inductor.register()


def _register(device_interface) -> None:
    accel = torch.accel

    class AccelInterface(device_interface.DeviceInterface):
        device = accel.device
        Event = accel.Event
        Stream = accel.Stream

        class Worker:
            set_device = staticmethod(accel.set_device)
            current_device = staticmethod(accel.current_device)
            get_device_properties = staticmethod(accel.get_device_properties)

        current_device = staticmethod(accel.current_device)
        set_device = staticmethod(accel.set_device)
        exchange_device = staticmethod(torch._C._accelerator_exchangeDevice)
        maybe_exchange_device = staticmethod(torch._C._accelerator_maybeExchangeDevice)
        device_count = staticmethod(accel.device_count)
        is_available = staticmethod(accel.is_available)
        stream = staticmethod(accel.stream)
        current_stream = staticmethod(accel.current_stream)
        set_stream = staticmethod(accel.set_stream)
        _set_stream_by_id = staticmethod(accel.streams._set_stream_by_id)
        synchronize = staticmethod(accel.synchronize)
        get_device_properties = staticmethod(accel.get_device_properties)
        memory_allocated = staticmethod(accel.memory_allocated)

        @staticmethod
        def get_raw_stream(device_index: int) -> int:
            return accel.current_stream(device_index).stream_id

        @staticmethod
        def get_compute_capability(device=None) -> str:
            return accel.get_device_properties(device).isa

        @staticmethod
        def is_bf16_supported(including_emulation: bool = False) -> bool:
            return True

        @classmethod
        def is_dtype_supported(cls, dtype: torch.dtype, including_emulation: bool = False) -> bool:
            return True

        @staticmethod
        def is_triton_capable(device=None) -> bool:
            return False

    device_interface.register_interface_for_device("accel", AccelInterface)
    for index in range(accel.device_count()):
        device_interface.register_interface_for_device(f"accel:{index}", AccelInterface)
