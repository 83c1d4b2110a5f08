"""A small GPT that every kind of parallelism trains: the example's model, on data it can learn."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
STEPS = 20
BATCH = 8
CONTEXT = 16
VOCABULARY = 64
LEARNING_RATE = 3e-3


def example(name: str) -> ModuleType:
    """examples/<name>.py as a module."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def make_model(device: torch.device | str, layers: int = 2) -> nn.Module:
    """The same parameters on every rank."""
    train_gpt = example("train_gpt")
    torch.manual_seed(0)
    config = train_gpt.GPTConfig(
        layers=layers, width=32, heads=4, context=CONTEXT, vocabulary=VOCABULARY, dropout=0.0
    )
    return train_gpt.GPT(config).to(device)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)


def batches(count: int = STEPS) -> list[Tensor]:
    """Global batches, (BATCH, CONTEXT + 1) of int64 on the CPU: walks with a constant stride, which
    the model can learn."""
    generator = torch.Generator().manual_seed(1)
    starts = torch.randint(VOCABULARY, (count, BATCH, 1), generator=generator)
    strides = torch.randint(1, 4, (count, BATCH, 1), generator=generator)
    return list((starts + strides * torch.arange(CONTEXT + 1)) % VOCABULARY)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def loss_on(model: nn.Module, tokens: Tensor) -> Tensor:
    return loss_of(model(tokens[:, :-1]), tokens[:, 1:])


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    part: Callable[[Tensor], Tensor] = lambda tokens: tokens,
    steps: int = STEPS,
    clip: Callable[[], object] | None = None,
) -> list[float]:
    """Losses of training steps on this rank's part of each batch."""
    losses = []
    for tokens in batches(steps):
        loss = loss_on(model, part(tokens))
        loss.backward()
        if clip is not None:
            clip()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return [loss.item() for loss in losses]


def mean(losses_of_ranks: list[list[float]]) -> list[float]:
    """Losses of the global batches, whose equal parts are the ranks' batches."""
    return [sum(losses) / len(losses) for losses in zip(*losses_of_ranks)]


def assert_same_losses(got: list[float], want: list[float], tolerance: float = 1e-5) -> None:
    """Equal within rounding, and worth comparing: the model has learnt something."""
    assert want[-1] < want[0] - 0.3, want
    torch.testing.assert_close(
        torch.tensor(got), torch.tensor(want), rtol=tolerance, atol=tolerance
    )
