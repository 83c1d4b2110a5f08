"""How much device memory is taken, once everything that is about to be given back has been."""

import gc
import time

import torch

# A thread that has not come to its end by then is no longer about to.
PATIENCE = 20  # seconds


def allocated(at_most: int | None = None) -> int:
    """Bytes in use on the current device when all queued work is done. Given `at_most`, collects
    cycles and waits until no more than that is in use: autograd's thread for the device lets go of
    the results of a backward a moment after the caller has got them, and may have to wait for the
    interpreter's lock to do so."""
    deadline = time.monotonic() + PATIENCE
    while True:
        time.sleep(0.001)  # which lets go of the interpreter's lock
        torch.accel.synchronize()
        taken = torch.accel.memory_allocated()
        if at_most is None or taken <= at_most or time.monotonic() > deadline:
            return taken
        gc.collect()
