"""The strides of results are those that PyTorch traces: a view that a graph takes of a result, or a
program that asks for channels_last, meets the same layout on the device."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional


def ones(*sizes: int) -> torch.Tensor:
    return torch.ones(sizes, device="accel")


# [2, 4, 4, 4] in memory.
LAYOUTS = {
    "contiguous": lambda: ones(2, 4, 4, 4),
    "channels last": lambda: ones(2, 4, 4, 4).to(memory_format=torch.channels_last),
    "transposed": lambda: ones(4, 4, 2, 4).transpose(0, 2),
    "reversed": lambda: ones(4, 4, 4, 2).permute(3, 2, 1, 0),
    "every other": lambda: ones(2, 4, 4, 8)[..., ::2],
    "channels left out": lambda: ones(2, 8, 4, 4)[:, ::2],
    "batch expanded": lambda: ones(1, 4, 4, 4).expand(2, 4, 4, 4),
    "last expanded": lambda: ones(2, 4, 4, 1).expand(2, 4, 4, 4),
}

FUNCTIONS = {
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where broadcast": lambda x: torch.where(x[:, :1] > 0, x, x),
    "where, complex": lambda x: torch.where(x > 0, torch.complex(x, x), torch.polar(x, x)),
    "add": lambda x: x + x[0],
    "add contiguous": lambda x: x + x.contiguous(),
    "gelu": functional.gelu,
    "comparison": lambda x: x == x,
    "clamp": lambda x: x.clamp(0, 1),
    "maximum": lambda x: torch.maximum(x, x),
    "sinc": torch.sinc,
    "half": lambda x: x.half(),
    "stack first": lambda x: torch.stack([x, x]),
    "stack second": lambda x: torch.stack([x, x], 1),
    "stack last": lambda x: torch.stack([x, x], -1),
    "cat": lambda x: torch.cat([x, x], 1),
    "flip": lambda x: x.flip(1),
    "pad": lambda x: functional.pad(x, (1, 1)),
    "pad reflect": lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "pad replicate": lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate"),
    "pixel_shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: functional.pixel_unshuffle(x, 2),
    "softmax": lambda x: x.softmax(1),
    "sum": lambda x: x.sum(1),
    "max": lambda x: x.max(1).values,
    "cumsum": lambda x: x.cumsum(1),
    "sort": lambda x: x.sort(1).values,
    "layer_norm": lambda x: functional.layer_norm(x, (4,)),
    "group_norm": lambda x: functional.group_norm(x, 2),
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "interpolate": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "conv2d": lambda x: functional.conv2d(x, x.new_ones(6, 4, 3, 3)),
    "conv2d, weight channels last": lambda x: functional.conv2d(
        x, x.new_ones(6, 4, 3, 3).to(memory_format=torch.channels_last)
    ),
    "conv2d, groups": lambda x: functional.conv2d(x, x.new_ones(4, 1, 3, 3), groups=4),
    "conv2d, double": lambda x: functional.conv2d(x.double(), x.new_ones(6, 4, 3, 3).double()),
    "conv1d": lambda x: functional.conv1d(x[0], x.new_ones(6, 4, 3)),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, x.new_ones(4, 6, 3, 3)),
    "linear": lambda x: functional.linear(x, x.new_ones(3, 4)),
    "matmul": lambda x: x @ x,
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x),
    "attention, narrow values": lambda x: functional.scaled_dot_product_attention(
        x.transpose(1, 2), x.transpose(1, 2), x.transpose(1, 2)[..., :2]
    ),
    "index": lambda x: x[:, torch.zeros(3, dtype=torch.long, device=x.device)],
    "gather": lambda x: x.gather(1, torch.zeros(2, 2, 4, 4, dtype=torch.long, device=x.device)),
    "mse_loss": lambda x: functional.mse_loss(x, x, reduction="none"),
    "huber_loss": lambda x: functional.huber_loss(x, x, reduction="none"),
    "complex": lambda x: torch.complex(x, x),
    "polar": lambda x: torch.polar(x, x),
}


def strides(tensor: torch.Tensor) -> list[int]:
    """Those that tell where elements are."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape) if size > 1]


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_strides_are_those_that_are_traced(function):
    differ = []
    for name, make in LAYOUTS.items():
        result = function(make())
        with FakeTensorMode():
            traced = function(make())
        assert result.shape == traced.shape and result.dtype == traced.dtype
        if strides(result) != strides(traced):
            differ.append((name, result.stride(), traced.stride()))
    assert not differ


def gradient(function, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    y = function(x)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


DIFFERENTIABLE = ["where", "maximum", "clamp", "conv2d", "conv2d, double", "conv_transpose2d"]


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, "attention", "huber_loss"])
def test_strides_of_gradients_are_those_that_are_traced(name):
    for layout, make in LAYOUTS.items():
        result = gradient(FUNCTIONS[name], make())
        with FakeTensorMode():
            traced = gradient(FUNCTIONS[name], make())
        assert strides(result) == strides(traced), layout


@pytest.mark.parametrize("backend", ["accel", "inductor", "aot_eager"])
def test_compiled_channels_last(backend):
    torch._dynamo.reset()
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3),
        torch.nn.ReLU(),
        torch.nn.Conv2d(6, 4, 3, groups=2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 5),
    ).to("accel", memory_format=torch.channels_last)
    x = torch.randn(2, 3, 8, 8).to("accel").to(memory_format=torch.channels_last)
    compiled = torch.compile(model, backend=backend)
    torch.testing.assert_close(compiled(x), model(x))
    expected = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    results = torch.autograd.grad(compiled(x).square().sum(), list(model.parameters()))
    torch.testing.assert_close(results, expected)


def test_compiled_views_of_what_is_laid_out_otherwise():
    """softplus_backward follows its first argument, and is traced as if it followed all."""
    torch._dynamo.reset()
    inputs = [torch.randn(2, 16, 8), torch.randn(4, 8)]
    scale = torch.randn(2, 4, 16)

    def loss(x, weight, scale):
        y = functional.softplus(functional.linear(x, weight))
        return (y.transpose(1, 2) * scale).sum()

    leaves = [x.to("accel").requires_grad_() for x in inputs]
    compiled = torch.compile(loss, backend="accel")
    results = torch.autograd.grad(compiled(*leaves, scale.to("accel")), leaves)
    leaves = [x.clone().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(loss(*leaves, scale), leaves)
    torch.testing.assert_close([x.cpu() for x in results], list(expected))
