"""Registers the device "accel" with PyTorch, once. Called by torch_accel/__init__.py only."""

import os
import sys

import torch

TORCH_VERSION = "2.13.0"  # the extension uses C++ interfaces of exactly this version

_registered = False


def register() -> None:
    """Loads the extension and registers the device. Raises ImportError with the reason."""
    global _registered
    if _registered:
        return
    version = torch.__version__.split("+")[0]
    if version != TORCH_VERSION:
        raise ImportError(
            f"torch_accel needs torch {TORCH_VERSION}, but torch {version} is installed"
        )
    # Before the extension registers anything for a device that has another name.
    name = torch._C._get_privateuse1_backend_name()
    if name not in ("privateuseone", "accel"):
        raise ImportError(
            f"another backend has registered its device, {name!r}, in torch's one place"
        )
    try:
        from torch_accel import _C  # noqa: F401 - loading it registers the C++ side
    except ModuleNotFoundError as error:
        if error.name != "torch_accel._C":
            raise
        raise ImportError(
            f"the compiled part of torch_accel is missing in {os.path.dirname(__file__)}; if that "
            f"is the source tree, run `make build` there or start Python from another folder"
        ) from error

    torch.utils.rename_privateuse1_backend("accel")

    from torch_accel import _launch, _patches, accel, distributed, dynamo

    torch._register_device_module("accel", accel)
    # `import torch.accel.memory` works as `import torch.cuda.memory` does.
    for name in ("amp", "distributed", "graphs", "memory", "random", "streams"):
        sys.modules[f"torch.accel.{name}"] = getattr(accel, name)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    _patches.apply()
    if "sync" in os.environ.get("ACCEL_LOG", "").split(","):
        # Lets the log name the forward line of an op that waits in backward.
        torch.autograd.set_detect_anomaly(True, check_nan=False)
    dynamo.register()
    distributed.register()
    _launch.divide_cores()
    _registered = True
