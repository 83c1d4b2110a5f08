"""What the Python tests share: the device, subprocesses under other settings, and counters."""

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

# Examples are the same in every run, so that a failure can be repeated; ACCEL_TEST_SEED=random and
# more ACCEL_TEST_EXAMPLES look for new ones.
hypothesis.settings.register_profile(
    "accel",
    deadline=None,
    derandomize=os.environ.get("ACCEL_TEST_SEED") != "random",
    max_examples=int(os.environ.get("ACCEL_TEST_EXAMPLES", "50")),
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("accel")


def pytest_sessionstart(session: pytest.Session) -> None:
    if not hasattr(torch, "accel"):
        import torch_accel  # noqa: F401 - raises with the reason


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def run_python() -> Callable[..., str]:
    """run_python(code, NAME="value", ...) runs `code` in a fresh interpreter with these environment
    variables and returns what it printed. `timeout` is in seconds, `status` the expected exit code
    (None: any); `stderr=True` returns both streams."""

    def run(
        code: str,
        timeout: float = 120,
        status: int | None = 0,
        stderr: bool = False,
        **variables: str,
    ) -> str:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **variables},
        )
        if status is not None:
            assert done.returncode == status, f"exit code {done.returncode}\n{done.stderr}"
        return done.stdout + done.stderr if stderr else done.stdout

    return run


class Counted:
    """The change of every counter in a `with` block, and of any name with `[]`."""

    def __enter__(self) -> "Counted":
        self._before = torch.accel.counters()
        self.changes: dict[str, int] = {}
        return self

    def __exit__(self, *exception: object) -> None:
        after = torch.accel.counters()
        self.changes = {name: after[name] - self._before.get(name, 0) for name in after}

    def __getitem__(self, name: str) -> int:
        return self.changes[name]


@pytest.fixture
def counted() -> type[Counted]:
    """`with counted() as c: ...`, then c["waits"]."""
    return Counted


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def train_gpt():
    """examples/train_gpt.py as a module."""
    return _load(ROOT / "examples" / "train_gpt.py")
