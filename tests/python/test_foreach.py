"""_foreach_ ops, fused optimizers and the gradient scaler against the CPU."""

import copy

import pytest
import torch

SHAPES = [(3, 5), (7,), (), (2, 3, 4), (300, 33)]


def lists(count: int, dtype: torch.dtype, positive: bool = True) -> list[list[torch.Tensor]]:
    make = torch.rand if positive else torch.randn
    return [[make(shape).add_(0.25).to(dtype) for shape in SHAPES] for _ in range(count)]


def on_device(tensors):
    return [tensor.to("accel") for tensor in tensors]


def run(name: str, device: str, arguments: list, keywords: dict):
    """The results of a functional op, or the arguments of an in-place one."""
    moved = [
        [x.to(device, copy=True) for x in argument]
        if isinstance(argument, list) and isinstance(argument[0], torch.Tensor)
        else argument.to(device)
        if isinstance(argument, torch.Tensor)
        else argument
        for argument in arguments
    ]
    result = getattr(torch, name)(*moved, **keywords)
    return [x.cpu() for x in (moved[0] if result is None else result)]


NUMBERS = [0.5, 2, -1.25, 3.0, 1]
UNARY = """abs acos asin atan ceil cos cosh erf erfc exp expm1 floor lgamma log log10 log1p log2 neg
    reciprocal round rsqrt sigmoid sign sin sinh sqrt tan tanh trunc frac""".split()
BINARY = "add sub mul div clamp_min clamp_max maximum minimum pow".split()

CASES = {name: (name, lambda t: [t[0]], {}) for name in UNARY}
for name in BINARY:
    CASES |= {
        f"{name} number": (name, lambda t: [t[0], 1.5], {}),
        f"{name} numbers": (name, lambda t: [t[0], NUMBERS], {}),
        f"{name} list": (name, lambda t: [t[0], t[1]], {}),
    }
CASES |= {
    "add alpha": ("add", lambda t: [t[0], t[1]], {"alpha": -0.5}),
    "sub alpha": ("sub", lambda t: [t[0], t[1]], {"alpha": 3}),
    "mul tensor": ("mul", lambda t: [t[0], torch.tensor(0.75)], {}),
    "div tensor": ("div", lambda t: [t[0], torch.tensor(0.75)], {}),
    "add tensor": ("add", lambda t: [t[0], torch.tensor(0.75)], {"alpha": 2}),
    "pow square": ("pow", lambda t: [t[0], 2], {}),
    "pow root": ("pow", lambda t: [t[0], 0.5], {}),
    "addcmul": ("addcmul", lambda t: [t[0], t[1], t[2], 0.5], {}),
    "addcmul numbers": ("addcmul", lambda t: [t[0], t[1], t[2], NUMBERS], {}),
    "addcdiv": ("addcdiv", lambda t: [t[0], t[1], t[2], 0.5], {}),
    "addcdiv numbers": ("addcdiv", lambda t: [t[0], t[1], t[2], NUMBERS], {}),
    "lerp": ("lerp", lambda t: [t[0], t[1], 0.25], {}),
    "lerp numbers": ("lerp", lambda t: [t[0], t[1], NUMBERS], {}),
    "lerp list": ("lerp", lambda t: [t[0], t[1], t[2]], {}),
    "integers": ("add", lambda t: [[x.int() for x in t[0]], 2], {}),
    "promotion": ("mul", lambda t: [t[0], [x.double() for x in t[1]]], {}),
    "broadcast": ("mul", lambda t: [t[0], [x.sum() for x in t[1]]], {}),
}
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float64: 1e-12}


@pytest.mark.parametrize("form", ["functional", "in place"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_foreach_matches_the_cpu(case, dtype, form):
    name, arguments, keywords = CASES[case]
    tensors = lists(3, dtype)
    name = f"_foreach_{name}" + ("_" if form == "in place" else "")
    try:
        expected = run(name, "cpu", arguments(tensors), keywords)
    except RuntimeError as error:
        with pytest.raises(RuntimeError, match=str(error)[:20]):
            run(name, "accel", arguments(tensors), keywords)
        return
    result = run(name, "accel", arguments(tensors), keywords)
    tolerance = TOLERANCE[dtype]
    for x, y in zip(result, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)
        assert x.stride() == y.stride()


@pytest.mark.parametrize("case", [*CASES, "copy", "zero"])
def test_what_foreach_writes_has_a_new_version(case):
    """Backward through what was written since would be wrong, and raises."""
    name, arguments, keywords = CASES.get(case, (case, None, {}))
    if case in ("copy", "zero"):
        arguments = (lambda t: t[:2]) if case == "copy" else (lambda t: t[:1])
    versions = {}
    for device in ("cpu", "accel"):
        lists_on_it = [[x.to(device) for x in tensors] for tensors in lists(3, torch.float32)]
        given = [x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments(lists_on_it)]
        before = [x._version for x in given[0]]
        try:
            getattr(torch, f"_foreach_{name}_")(*given, **keywords)
        except RuntimeError:
            continue
        versions[device] = [x._version - y for x, y in zip(given[0], before)]
    assert versions.get("accel") == versions.get("cpu")


def test_a_step_in_front_of_backward_is_an_error():
    weights = [torch.nn.Parameter(torch.ones(3, 3, device="accel")) for _ in range(2)]
    loss = (torch.ones(2, 3, device="accel") @ weights[0] @ weights[1]).sum()
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.SGD(weights, lr=1.0).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_foreach_gives_the_bits_of_the_single_ops(dtype):
    first, second, third = (on_device(x) for x in lists(3, dtype))
    pairs = [
        (torch._foreach_mul(first, second), [x * y for x, y in zip(first, second)]),
        (
            torch._foreach_add(first, second, alpha=0.3),
            [torch.add(x, y, alpha=0.3) for x, y in zip(first, second)],
        ),
        (torch._foreach_div(first, 3.0), [x / 3.0 for x in first]),
        (torch._foreach_sqrt(first), [x.sqrt() for x in first]),
        (
            torch._foreach_lerp(first, second, 0.1),
            [torch.lerp(x, y, 0.1) for x, y in zip(first, second)],
        ),
        (
            torch._foreach_addcdiv(first, second, third, 0.7),
            [torch.addcdiv(x, y, z, value=0.7) for x, y, z in zip(first, second, third)],
        ),
        (torch._foreach_norm(first), [torch.linalg.vector_norm(x) for x in first]),
    ]
    for results, expected in pairs:
        for x, y in zip(results, expected, strict=True):
            assert torch.equal(x.cpu(), y.cpu())


def test_zero_copy_and_norm():
    (tensors,) = lists(1, torch.float32, positive=False)
    device = on_device(tensors)
    for order in (1, 2, float("inf"), 3):
        expected = torch._foreach_norm(tensors, order)
        norms = torch._foreach_norm(device, order)
        torch.testing.assert_close([x.cpu() for x in norms], expected)
        torch.testing.assert_close(torch.stack(norms).cpu(), torch.stack(expected))
    targets = [torch.empty_like(x, dtype=torch.bfloat16) for x in device]
    torch._foreach_copy_(targets, device)
    for target, tensor in zip(targets, tensors, strict=True):
        assert torch.equal(target.cpu(), tensor.bfloat16())
    torch._foreach_copy_(device, [x + 1 for x in tensors])
    assert torch.equal(device[0].cpu(), tensors[0] + 1)
    torch._foreach_zero_(device)
    assert all(x.abs().sum().item() == 0 for x in device)


def test_lists_of_different_lengths_are_an_error():
    (tensors,) = lists(1, torch.float32)
    device = on_device(tensors)
    with pytest.raises(RuntimeError, match="same length|same number"):
        torch._foreach_add(device, device[:2])
    with pytest.raises(RuntimeError):
        torch._foreach_add([], 1)


def test_foreach_neither_waits_nor_leaves_the_device(counted):
    first, second = (on_device(x) for x in lists(2, torch.float32))
    with counted() as change:
        torch._foreach_mul_(first, 0.9)
        torch._foreach_addcmul_(first, second, second)
        norms = torch._foreach_norm(first)
        total = torch.linalg.vector_norm(torch.stack(norms))
        torch._foreach_mul_(first, (1 / (total + 1)).clamp(max=1))
    assert change["waits"] == change["host_ops"] == change["fallbacks"] == 0


# ---- optimizers ----


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 16), torch.nn.LayerNorm(16), torch.nn.GELU(), torch.nn.Linear(16, 3)
    )


OPTIMIZERS = {
    "adam": lambda p, **k: torch.optim.Adam(p, lr=1e-2, **k),
    "adam amsgrad": lambda p, **k: torch.optim.Adam(
        p, lr=1e-2, amsgrad=True, weight_decay=0.1, **k
    ),
    "adamw": lambda p, **k: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, **k),
    "adamw maximize": lambda p, **k: torch.optim.AdamW(p, lr=1e-2, maximize=True, **k),
    "sgd": lambda p, **k: torch.optim.SGD(p, lr=1e-1, **k),
    "sgd momentum": lambda p, **k: torch.optim.SGD(
        p, lr=1e-1, momentum=0.9, nesterov=True, weight_decay=0.01, **k
    ),
    "sgd dampening": lambda p, **k: torch.optim.SGD(
        p, lr=1e-1, momentum=0.8, dampening=0.5, maximize=True, **k
    ),
}


def train(model, optimizer, device: str, steps: int = 5) -> list[torch.Tensor]:
    torch.manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 6).to(device)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [p.detach().cpu() for p in model.parameters()]


@pytest.mark.parametrize("implementation", ["foreach", "fused", "forloop"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_match_the_cpu(name, implementation, counted):
    keywords = {
        "foreach": {"foreach": True},
        "fused": {"fused": True},
        "forloop": {"foreach": False},
    }
    model = network()
    device_model = copy.deepcopy(model).to("accel")
    expected = train(model, OPTIMIZERS[name](model.parameters(), foreach=False), "cpu")
    optimizer = OPTIMIZERS[name](device_model.parameters(), **keywords[implementation])
    train_before = torch.accel.counters()["fallbacks"]
    result = train(device_model, optimizer, "accel")
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    assert torch.accel.counters()["fallbacks"] == train_before
    with counted() as change:
        optimizer.step()
    if implementation != "forloop":
        assert change["waits"] == change["host_ops"] == 0, torch.accel.report()


def test_a_fused_step_is_one_node_for_many_parameters(counted):
    parameters = [torch.nn.Parameter(torch.ones(5, device="accel")) for _ in range(450)]
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer = torch.optim.SGD(parameters, lr=0.5, fused=True)
    optimizer.step()
    with counted() as change:
        optimizer.step()
    assert change["nodes"] == 3
    assert parameters[449].tolist() == [0, 0, 0, 0, 0]


def test_a_learning_rate_on_the_device():
    rate = torch.tensor(0.5, device="accel")
    p = torch.nn.Parameter(torch.ones(5, device="accel"))
    p.grad = torch.ones_like(p)
    optimizer = torch.optim.SGD([p], lr=rate, fused=True)
    optimizer.step()
    rate.fill_(0.25)
    optimizer.step()
    assert p.tolist() == [0.25] * 5


def test_a_gradient_in_another_layout():
    for fused in (False, True):
        p = torch.nn.Parameter(torch.zeros(3, 4, device="accel"))
        p.grad = torch.arange(12.0, device="accel").reshape(4, 3).t()
        torch.optim.SGD([p], lr=1.0, fused=fused, foreach=False).step()
        assert torch.equal(p.detach().cpu(), -torch.arange(12.0).reshape(4, 3).t())


# ---- the gradient scaler ----


@pytest.mark.parametrize("bad", [None, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_unscaling_finds_what_is_not_finite(dtype, bad, counted):
    grads = [torch.randn(shape).to(dtype) for shape in SHAPES]
    if bad is not None:
        grads[3][1, 2, 3] = bad
    results = []
    for device in ("cpu", "accel"):
        moved = [x.to(device, copy=True) for x in grads]
        found, scale = torch.zeros(1, device=device), torch.tensor([0.25], device=device)
        with counted() as change:
            torch._amp_foreach_non_finite_check_and_unscale_(moved, found, scale)
        assert change["waits"] == 0
        results.append(([x.cpu() for x in moved], found.cpu()))
    torch.testing.assert_close(results[1], results[0], equal_nan=True)
    assert results[1][1].item() == (bad is not None)


@pytest.mark.parametrize("found", [0.0, 1.0])
@pytest.mark.parametrize("tracker", [0, 2])
@pytest.mark.parametrize("scale", [1024.0, 3e38])
def test_the_scale_follows_pytorch_s_rule(found, tracker, scale, counted):
    results = []
    for device in ("cpu", "accel"):
        current = torch.tensor(scale, device=device)
        growth = torch.tensor(tracker, dtype=torch.int32, device=device)
        with counted() as change:
            result = torch._amp_update_scale_(
                current, growth, torch.tensor(found, device=device), 2.0, 0.3, 3
            )
        assert result is current and change["waits"] == 0
        results.append((current.item(), growth.item()))
    assert results[1] == results[0]


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaled_training_skips_bad_steps(fused):
    results = []
    for device in ("cpu", "accel"):
        model = network().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
        scaler = torch.amp.GradScaler(device, init_scale=64.0, growth_interval=2)
        torch.manual_seed(2)
        for step in range(6):
            x = torch.randn(8, 6).to(device)
            loss = model(x).square().mean() * (float("inf") if step == 3 else 1)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(([p.detach().cpu() for p in model.parameters()], scaler.get_scale()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
