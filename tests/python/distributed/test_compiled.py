"""torch.compile over modules that several ranks wrap: the losses of the wrapped module."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


class _Model(nn.Module):
    """Not a Sequential: TorchDynamo does not begin a graph in one, where DDP has broken it off."""

    def __init__(self):
        super().__init__()
        self.up, self.norm, self.down = nn.Linear(12, 32), nn.LayerNorm(32), nn.Linear(32, 3)

    def forward(self, x):
        return self.down(nn.functional.gelu(self.norm(self.up(x))))


def _wrapped(place, kind):
    model = _Model().to(place.device)
    if kind == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh(place.device.type, (place.ranks,))
    for layer in (model.up, model.down, model):
        fully_shard(layer, mesh=mesh)
    return model


def _losses(place, kind, is_compiled):
    torch._dynamo.reset()
    torch.manual_seed(1)
    model = _wrapped(place, kind)
    forward = torch.compile(model, backend="accel") if is_compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(place.rank)
    losses = []
    for _ in range(4):
        x = torch.randn(6, 12, generator=generator).to(place.device)
        loss = forward(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, torch.accel.counters()["regions"]


def _both(place, kind):
    expected, _ = _losses(place, kind, False)
    torch.accel.reset_counters()
    got, regions = _losses(place, kind, True)
    return expected, got, regions


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_compiled_wrapped_module_has_its_losses(ranks, kind):
    for expected, got, regions in ranks(_both, kind, timeout=300):
        assert got == pytest.approx(expected, rel=1e-5)
        assert expected[-1] < expected[0] and regions > 0
