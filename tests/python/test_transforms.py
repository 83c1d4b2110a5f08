"""What PyTorch builds on top of its operators: function transforms, forward-mode AD, hooks,
checkpointing, aliasing and tensor kinds. Each case runs on the CPU and on accel, and agrees."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import (
    functional_call,
    functionalize,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def network(device: str) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )
    return layers.to(device)


def data(device: str, *shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)


# ---- torch.func ----


def per_sample_loss(parameters, model, x, y):
    return F.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])


@case
def gradients_of_each_sample(device):
    model, x = network(device), data(device, 5, 6)
    y = torch.tensor([0, 2, 1, 1, 0], device=device)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    return vmap(grad(per_sample_loss), (None, None, 0, 0))(parameters, model, x, y)


@case
def ensembles(device):
    models = [network(device), network(device)]
    with torch.no_grad():
        models[1][0].weight.mul_(0.5)
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    x = data(device, 4, 6)
    return vmap(lambda p, b: functional_call(base, (p, b), (x,)))(parameters, buffers)


@case
def jacobians(device):
    model, x = network(device), data(device, 6)
    return jacrev(model)(x), jacfwd(model)(x)


@case
def hessians(device):
    return hessian(lambda x: (x.sin() * x.exp()).sum() + (x @ x) ** 2)(data(device, 5))


@case
def products_with_jacobians(device):
    model, x, v = network(device), data(device, 4, 6), data(device, 4, 6, seed=2)
    value, tangent = jvp(model, (x,), (v,))
    _, pull = vjp(model, x)
    return value, tangent, pull(torch.ones_like(value))


@case
def nested_vmap(device):
    x, y = data(device, 3, 4, 5), data(device, 4, 5, seed=2)
    return (
        vmap(vmap(torch.dot), (0, None))(x, y),
        vmap(torch.sort)(x),
        vmap(torch.cumsum, (0, None))(x, 0),
    )


@case
def vmap_over_random_numbers(device):
    def noise(x):
        return x + torch.rand_like(x)

    x = torch.zeros(7, 5, device=device)
    same = vmap(noise, randomness="same")(x)
    different = vmap(noise, randomness="different")(x)
    return (same == same[0]).all(), (different[0] != different[1]).any()


@case
def functionalized_in_place_ops(device):
    def steps(x):
        y = x.clone()
        y[1:].add_(1)
        y.view(-1).mul_(2)
        return y

    return functionalize(steps)(data(device, 4, 3))


# ---- forward-mode AD ----


@case
def dual_numbers(device):
    import torch.autograd.forward_ad as forward_ad

    model, x, v = network(device), data(device, 4, 6), data(device, 4, 6, seed=3)
    with forward_ad.dual_level():
        return tuple(forward_ad.unpack_dual(model(forward_ad.make_dual(x, v))))


@case
def gradcheck_in_forward_and_reverse(device):
    x = data(device, 3, 4).double().requires_grad_()

    def f(x):
        return F.softmax(x, -1) * F.gelu(x) + x.cumsum(0)

    return torch.autograd.gradcheck(f, x, check_forward_ad=True, check_batched_grad=True)


# ---- autograd ----


@case
def checkpointed_layers(device):
    model, x = network(device), data(device, 4, 6).requires_grad_()
    for reentrant in (False, True):
        hidden = checkpoint(model[:3], x, use_reentrant=reentrant)
        model[3:](hidden).square().sum().backward()
    return x.grad, [p.grad for p in model.parameters()]


@case
def checkpointed_dropout_repeats_its_mask(device):
    x = torch.ones(1000, device=device, requires_grad=True)
    y = checkpoint(lambda x: F.dropout(x, 0.5), x, use_reentrant=False)
    y.sum().backward()
    return torch.equal(x.grad, y.detach())


@case
def hooks(device):
    model, x, seen = network(device), data(device, 4, 6), []
    model[0].register_forward_hook(lambda module, args, out: out * 2)
    model[3].register_full_backward_hook(lambda module, d_in, d_out: seen.append(d_out[0]))
    model[5].weight.register_hook(lambda g: g.clamp(-0.1, 0.1))
    model[0].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    model(x).sum().backward()
    return seen, [p.grad for p in model.parameters()]


@case
def saved_tensors_on_the_host(device):
    model, x = network(device), data(device, 4, 6).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        loss = model(x).square().sum()
    loss.backward()
    return x.grad


@case
def own_functions(device):
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 3 * x * x * grad

    x = data(device, 5).requires_grad_()
    return torch.autograd.grad(Cube.apply(x).sum(), x, create_graph=True)


@case
def anomalies_are_named(device):
    x = torch.zeros(3, device=device, requires_grad=True)
    loss = (x.sqrt() * 0).sum()
    with (
        torch.autograd.set_detect_anomaly(True),
        pytest.raises(RuntimeError, match="SqrtBackward0.*nan"),
    ):
        loss.backward()
    return True


@case
def graphs_end_once(device):
    x = data(device, 5).requires_grad_()
    loss = x.exp().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    return x.grad


@case
def inference_mode(device):
    model, x = network(device), data(device, 4, 6)
    with torch.inference_mode():
        y = model(x)
        y.add_(1)
        assert y.is_inference()
        with torch.no_grad():
            z = y * 2
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        model(y[:, :1].expand(4, 6)).sum().backward()
    return z


@case
def versions_count_writes(device):
    x = data(device, 4, 5)
    y, before = x[1:], x._version
    y.mul_(2)
    x.view(-1)[0] = 3
    return x._version - before, y._version, x


# ---- memory ----


@case
def storages_shared_by_dtypes(device):
    x = data(device, 4, 6)
    bits = x.view(torch.int32)
    bits.bitwise_and_(0x7FFFFFFF)  # the sign of every number
    halves = x.view(torch.int16)
    halves[0].zero_()
    return x, x.view(torch.uint8).sum(), torch.view_as_complex(x.view(4, 3, 2)).abs()


@case
def storages_exchanged(device):
    x, y = data(device, 4, 3), data(device, 6, seed=2)
    x.set_(y)
    y.add_(1)
    z = torch.empty(0, device=device).set_(y.untyped_storage(), 1, (2, 2), (3, 1))
    z.mul_(3)
    x.resize_(2, 5)
    x.fill_(4)
    x.resize_(2, 2)
    x.untyped_storage().resize_(80)
    return x, y, z.shape, y.untyped_storage().nbytes()


@case
def data_assigned(device):
    x = data(device, 4, 3).requires_grad_()
    x.data = data(device, 2, 2, seed=2)
    x.data.mul_(2)
    return x, x._version


@case
def tensors_swapped(device):
    x, y = data(device, 3), data(device, 5, seed=2)
    views = [x, y]
    torch.utils.swap_tensors(x, y)
    return views


@case
def parametrized_weights(device):
    model, x = network("cpu"), data(device, 4, 6)
    nn.utils.parametrizations.spectral_norm(model[0])
    nn.utils.parametrizations.weight_norm(model[3])
    nn.utils.parametrizations.orthogonal(model[5])
    model.to(device)(x).sum().backward()
    return [p.grad for p in model.parameters()]


@case
def pruned_weights(device):
    model, x = network(device), data(device, 4, 6)
    prune.l1_unstructured(model[0], "weight", amount=0.3)
    return model(x)


@case
def saved_and_loaded(device):
    model = network(device)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "view": next(model.parameters())[1:]}, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert all(t.device.type == device for t in loaded["model"].values())
    buffer.seek(0)
    host = torch.load(buffer, map_location="cpu", weights_only=True)
    return loaded, host


@case
def deep_copies(device):
    model = network(device)
    again = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.zero_()
    return again[0].weight


# ---- kinds of tensors ----


@case
def sparse_matrices(device):
    dense = data(device, 5, 6)
    dense = dense * (dense > 0)
    results = []
    for layout in (torch.sparse_coo, torch.sparse_csr):
        sparse = dense.to_sparse(layout=layout)
        results += [sparse @ data(device, 6, 2), (sparse * 2).to_dense(), sparse.sum()]
    return results


@case
def jagged_nested_tensors(device):
    parts = [data(device, n, 4, seed=n) for n in (3, 1, 5)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged, requires_grad=True)
    y = F.gelu(nested * 2)
    y.values().sum().backward()
    return y.unbind(), nested.grad.values()


@case
def strided_nested_tensors(device):
    parts = [data(device, n, 4, seed=n) for n in (3, 1, 5)]
    nested = torch.nested.nested_tensor(parts)
    return (nested * 2).unbind(), torch.nested.to_padded_tensor(nested, 0.0)


@case
def views_of_nested_tensors(device):
    parts = [data(device, n, 16, seed=n) for n in (3, 1, 5)]
    nested = torch.nested.nested_tensor(parts)
    views = nested.chunk(2, -1)[1] * 1, nested.transpose(1, 2) * 2, nested @ nested.transpose(1, 2)
    jagged = torch.nested.nested_tensor(parts, layout=torch.jagged)
    heads = jagged.unflatten(-1, (2, 8)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(heads, heads, heads)
    return *(part for view in views for part in view.unbind()), attended.values()


@case
def nested_tensors_moved(device):
    parts = [data("cpu", n, 4, seed=n) for n in (3, 1, 5)]
    return torch.nested.nested_tensor(parts).to(device).unbind()


@case
def quantized_tensors(device):
    x = data(device, 4, 5)
    quantized = torch.quantize_per_tensor(x, 0.05, 10, torch.qint8)
    rows = torch.quantize_per_channel(
        x, torch.full((4,), 0.1, device=device), torch.zeros(4, device=device), 0, torch.quint8
    )
    return quantized.int_repr(), quantized.dequantize(), rows.dequantize()


@case
def quantized_tensors_moved(device):
    quantized = torch.quantize_per_tensor(data("cpu", 4, 5), 0.05, 10, torch.qint8)
    moved = quantized.to(device)
    return moved.dequantize(), moved.int_repr(), moved.cpu().dequantize()


@case
def quantized_tensors_copied(device):
    quantized = torch.quantize_per_tensor(data(device, 4, 5), 0.05, 10, torch.qint8)
    copies = copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))
    return *(each.int_repr() for each in copies), quantized.int_repr()


@case
def fake_quantization(device):
    x = data(device, 4, 5).requires_grad_()
    y = torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -10, 10)
    y.sum().backward()
    return y, x.grad


@case
def quantization_aware_training(device):
    ao = torch.ao.quantization
    observer = ao.FusedMovingAvgObsFakeQuantize(
        observer=ao.MovingAveragePerChannelMinMaxObserver,
        quant_min=-128,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    ).to(device)
    x = data(device, 3, 4).requires_grad_()
    y, z = observer(x), observer(x * 2)
    (y + z).sum().backward()
    return y, z, x.grad, observer.scale, observer.zero_point


@case
def masked_tensors(device):
    x = data(device, 4, 5)
    mask = torch.masked.masked_tensor(x, x > 0)
    return mask.sum().get_data(), (mask * 2).amax(1).get_data()


@case
def tensor_subclasses(device):
    class Tagged(torch.Tensor):
        pass

    x = data(device, 3).as_subclass(Tagged)
    y = (x * 2).exp()
    return type(y).__name__, y.as_subclass(torch.Tensor)


@case
def modes_see_every_op(device):
    from torch.utils._python_dispatch import TorchDispatchMode

    names = []

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    x = data(device, 3)
    with Names():
        (x * 2).sum()
    return names


def _compare(expected, got):
    kind = torch.utils._pytree.tree_flatten
    left, left_spec = kind(expected)
    right, right_spec = kind(got)
    assert left_spec == right_spec
    for e, g in zip(left, right, strict=True):
        if isinstance(e, torch.Tensor):
            assert e.requires_grad == g.requires_grad
            torch.testing.assert_close(g.detach().cpu(), e.detach().cpu(), rtol=1e-4, atol=1e-5)
        else:
            assert e == g


@pytest.mark.parametrize("name", CASES)
def test_as_on_the_cpu(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = CASES[name]("cpu")
        _compare(expected, CASES[name]("accel"))
