"""PyTorch's optimizer database: every optimizer, in each of its implementations and settings, moves
the parameters on accel as on the CPU."""

import copy

import pytest
import torch
from torch.testing._internal.common_optimizers import optim_db

# LBFGS takes up to twenty steps in one, each of which may double a difference in rounding: one of
# its steps in double precision is as far as results agree.
STEPS = {torch.optim.LBFGS: 1}
# Relative and absolute. The foreach implementation rounds in another order than the fused and
# single ones, on the CPU as well; Muon orthogonalises in bfloat16, whatever the dtype.
TOLERANCES = {torch.float32: (2e-4, 2e-5), torch.float64: (1e-8, 1e-9)}
MUON = (2e-2, 2e-4)


def _cases():
    for info in optim_db:
        for number, entry in enumerate(info.optim_inputs_func(device="cpu")):
            flags = {"forloop": {"foreach": False}}
            if "foreach" in info.supported_impls:
                flags["foreach"] = {"foreach": True}
            if "fused" in info.supported_impls:
                flags["fused"] = {"fused": True}
            if "foreach" not in info.supported_impls:
                flags["forloop"] = {}
            for name, flag in flags.items():
                kwargs = {**entry.kwargs}
                if kwargs.get("differentiable") or kwargs.get("capturable"):
                    continue
                kwargs.update(flag)
                yield pytest.param(
                    info, kwargs, id=f"{info.optim_cls.__name__}-{number}-{entry.desc}-{name}"
                )


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4, bias=False)
    )


def _train(model, info, kwargs, device, dtype):
    model = copy.deepcopy(model).to(device, dtype)
    parameters = list(model.parameters())
    if info.optim_cls is torch.optim.Muon:
        parameters = [x for x in parameters if x.dim() == 2]
    kwargs = {
        name: value.to(device) if isinstance(value, torch.Tensor) and value.dim() else value
        for name, value in kwargs.items()
    }
    optimizer = info.optim_cls(parameters, **kwargs)
    generator = torch.Generator().manual_seed(1)
    steps = STEPS.get(info.optim_cls, 4)
    batches = torch.randn(steps, 5, 8, generator=generator).to(dtype)
    losses = []

    def closure(batch):
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        if info.only_supports_sparse_grads:
            for x in parameters:
                x.grad = x.grad.to_sparse()
        return loss

    for batch in batches.to(device):
        if info.step_requires_closure:
            losses.append(optimizer.step(lambda batch=batch: closure(batch)))
        else:
            losses.append(closure(batch))
            optimizer.step()
    state = [
        x for p in parameters for x in optimizer.state[p].values() if isinstance(x, torch.Tensor)
    ]
    return [x.detach().cpu() for x in [*losses, *model.parameters(), *state]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(("info", "kwargs"), list(_cases()))
def test_optimizer(info, kwargs, dtype):
    if info.optim_cls is torch.optim.LBFGS:
        dtype = torch.float64
    model = _model()
    expected = _train(model, info, kwargs, "cpu", dtype)
    got = _train(model, info, kwargs, "accel", dtype)
    assert len(expected) == len(got)
    rtol, atol = MUON if info.optim_cls is torch.optim.Muon else TOLERANCES[dtype]
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=rtol, atol=atol, check_stride=False)
