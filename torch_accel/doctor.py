"""The checks and figures behind `python -m torch_accel doctor`. Nothing else imports this file."""

import os
import platform
import time
from collections.abc import Callable

import torch

import torch_accel

# Every environment variable that changes what the device does, and what it is when not set.
_VARIABLES = {
    "ACCEL_DEVICE_COUNT": "1",
    "ACCEL_ISA": "the fastest of this machine",
    "ACCEL_FUSION": "1",
    "ACCEL_FALLBACK": "warn",
    "ACCEL_MEMORY": "plain",
    "ACCEL_MEMORY_CAPACITY": "80 % of the machine's",
    "ACCEL_LOG": "nothing",
    "OMP_NUM_THREADS": "the number of cores",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "1",
}


def instruction_sets() -> list[str]:
    """The values of ACCEL_ISA that this machine can run, the one in use last."""
    properties = torch.accel.get_device_properties(0)
    others = [isa for isa in properties.supported_isas if isa != properties.isa]
    return [*others, properties.isa]


def run() -> int:
    """Prints everything; returns 0 if the self-test passed, else 1."""
    _versions()
    _device()
    _environment()
    return _self_test()


def _print(name: str, value: object) -> None:
    print(f"  {name:<34}{value}")


def _versions() -> None:
    print("versions")
    _print("torch_accel", f"{torch_accel.__version__} in {os.path.dirname(torch_accel.__file__)}")
    _print("torch", torch.__version__)
    _print("python", platform.python_version())
    _print("system", platform.platform())


def _device() -> None:
    properties = torch.accel.get_device_properties(0)
    free, total = torch.accel.mem_get_info(0)
    print("device")
    _print("name", properties.name)
    _print("devices", torch.accel.device_count())
    _print("instruction sets", f"{', '.join(instruction_sets())}; in use: {properties.isa}")
    _print("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores")
    _print("memory", f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f} GiB")


def _environment() -> None:
    print("environment")
    for name, default in _VARIABLES.items():
        _print(name, os.environ.get(name, f"not set ({default})"))


def _self_test() -> int:
    print("self-test")
    checks = {
        "arithmetic equals the CPU's": _check_arithmetic,
        "a training step equals the CPU's": _check_training_step,
        "add, bandwidth": _measure_add,
        "matmul 1024³, float32": lambda: _measure_matmul(torch.float32),
        "matmul 1024³, bfloat16": lambda: _measure_matmul(torch.bfloat16),
    }
    failures = 0
    for name, check in checks.items():
        try:
            _print(name, check())
        except Exception as error:
            failures += 1
            _print(name, f"FAILED: {type(error).__name__}: {error}")
    print(f"{failures} of {len(checks)} checks failed" if failures else "all is well")
    return 1 if failures else 0


def _check_arithmetic() -> str:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(257, 129, generator=generator)
    y = torch.randn(129, generator=generator)
    expected = torch.nn.functional.gelu(x * y + 1).softmax(-1) @ x.t()
    x, y = x.to("accel"), y.to("accel")
    actual = torch.nn.functional.gelu(x * y + 1).softmax(-1) @ x.t()
    error = (actual.cpu() - expected).abs().max().item()
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=1e-5)
    return f"largest difference {error:.1e}"


def _check_training_step() -> str:
    losses = []
    for device in ("cpu", "accel"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 128),
            torch.nn.LayerNorm(128),
            torch.nn.GELU(),
            torch.nn.Linear(128, 10),
        )
        inputs, targets = torch.randn(32, 64), torch.randint(10, (32,))
        model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(5):
            loss = torch.nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    expected, actual = losses
    if abs(actual - expected) > 1e-3 * abs(expected):
        raise AssertionError(f"the loss after 5 steps is {actual}, on the CPU {expected}")
    return f"loss after 5 steps {actual:.6f}, on the CPU {expected:.6f}"


def _best_seconds(work: Callable[[], object]) -> float:
    """The shortest of ten runs, waiting for the device after each."""
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        result = work()  # kept: what nobody can read is not computed
        torch.accel.synchronize()
        best = min(best, time.perf_counter() - start)
        del result
    return best


def _measure_add() -> str:
    x, y = torch.ones(2, 1 << 24, device="accel")
    out = torch.empty_like(x)
    seconds = _best_seconds(lambda: torch.add(x, y, out=out))
    if not torch.equal(out.cpu(), torch.full((1 << 24,), 2.0)):
        raise AssertionError("1 + 1 is not 2")
    return f"{3 * x.nbytes / seconds / 1e9:.1f} GB/s"


def _measure_matmul(dtype: torch.dtype) -> str:
    x = torch.randn(1024, 1024).to("accel", dtype)
    seconds = _best_seconds(lambda: x @ x)
    return f"{2 * 1024**3 / seconds / 1e9:.0f} GFLOP/s"
