"""PyTorch's optimizer database: every optimizer, in each of its implementations and settings, moves
the parameters on accel as on the CPU, and refuses what it refuses there."""

import copy
import warnings

import pytest
import torch
from operator_database import Mover
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
        # What the database has for "cuda" are the CPU's settings and the capturable ones.
        for number, entry in enumerate(info.optim_inputs_func(device="cuda")):
            flags = {"forloop": {"foreach": False}}
            if "foreach" in info.supported_impls:
                flags["foreach"] = {"foreach": True}
            if "fused" in info.supported_impls:
                flags["fused"] = {"fused": True}
            if "foreach" not in info.supported_impls:
                flags["forloop"] = {}
            for name, flag in flags.items():
                kwargs = {**entry.kwargs}
                if kwargs.get("differentiable"):
                    continue  # has a test of its own
                kwargs.update(flag)
                yield pytest.param(
                    info, kwargs, id=f"{info.optim_cls.__name__}-{number}-{entry.desc}-{name}"
                )


def _plain(kwargs: dict) -> dict:
    """The same settings, if they are capturable, for the CPU, which has no such implementation."""
    if not kwargs.get("capturable"):
        return kwargs

    def plain(value):
        if isinstance(value, torch.Tensor):
            return value.item()
        return tuple(map(plain, value)) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in kwargs.items()} | {"capturable": False}


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
    expected = _train(model, info, _plain(kwargs), "cpu", dtype)
    got = _train(model, info, kwargs, "accel", dtype)
    assert len(expected) == len(got)
    # A capturable step counts, and corrects its moments, in float32.
    rtol, atol = TOLERANCES[torch.float32 if kwargs.get("capturable") else dtype]
    if info.optim_cls is torch.optim.Muon:
        rtol, atol = MUON
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=rtol, atol=atol, check_stride=False)


@pytest.mark.parametrize(
    "info",
    [
        pytest.param(info, id=info.optim_cls.__name__)
        for info in optim_db
        if "differentiable" in info.supported_impls
    ],
)
def test_a_differentiable_step(info):
    """Gradients through a step, with respect to the parameter and its gradient."""

    def run(device: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        leaves = [torch.randn(6, 5, dtype=torch.float64) for _ in range(2)]
        leaves = [x.to(device).requires_grad_() for x in leaves]
        parameter = leaves[0].clone()
        parameter.grad = leaves[1].clone()
        optimizer = info.optim_cls([parameter], differentiable=True)
        optimizer.step()
        parameter.square().sum().backward()
        return [parameter.detach().cpu(), *(x.grad.cpu() for x in leaves)]

    for e, g in zip(run("cpu"), run("accel"), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "info", [pytest.param(info, id=info.optim_cls.__name__) for info in optim_db]
)
def test_what_an_optimizer_refuses(info):
    def refusal(entry, device: str) -> type[Exception] | None:
        given = entry.optimizer_error_input
        parameters = given.params
        if parameters is None:
            parameters = [torch.nn.Parameter(torch.randn(2, 3, device=device))]
        else:
            parameters = Mover(device)(parameters)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                info.optim_cls(parameters, **Mover(device)(given.kwargs))
        except Exception as error:
            return type(error)
        return None

    for entry in info.optim_error_inputs_func(device="cpu", dtype=torch.float32):
        expected, got = refusal(entry, "cpu"), refusal(entry, "accel")
        assert got is expected, f"{entry.optimizer_error_input.desc}: {got}, not {expected}"
