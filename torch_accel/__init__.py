"""torch_accel: a PyTorch device backend. PyTorch loads it by itself (entry point `torch.backends`);
this file only decides when to register the device. It computes nothing and has no policy.
"""


def _autoload() -> None:
    """Called at the end of `import torch`. Never raises: a failure would break `import torch`."""
    # Defined before anything is imported: when a program imports torch_accel first, torch calls
    # this function while the rest of this file has not run yet.
    try:
        from torch_accel._registration import register

        register()
    except Exception as error:
        import warnings

        warnings.warn(
            f"torch_accel could not be loaded; the device 'accel' is not available. "
            f"{type(error).__name__}: {error}. "
            f"`python -m torch_accel doctor` tells more; TORCH_DEVICE_BACKEND_AUTOLOAD=0 switches "
            f"automatic loading off.",
            RuntimeWarning,
            stacklevel=2,
        )


import torch  # noqa: E402

__version__ = "0.1.0"

# While torch itself is being imported, it is about to call _autoload(). Otherwise this is an import
# by name (needed with TORCH_DEVICE_BACKEND_AUTOLOAD=0), which may raise.
if not getattr(torch.__spec__, "_initializing", False):
    from torch_accel._registration import register

    register()
