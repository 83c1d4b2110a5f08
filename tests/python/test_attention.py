"""Scaled dot-product attention against the CPU: shapes, masks, dropout, layouts, gradients, and
which implementation a call takes."""

import math

import pytest
import torch
from compare import FLOATING, assert_as_on_cpu, assert_same_error, natively, values
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention

LIMITS = {
    torch.float32: 1e-4,
    torch.float64: 1e-9,
    torch.bfloat16: 4e-2,
    torch.float16: 6e-3,
}


def qkv(batch, heads, queries, keys, width, dtype=torch.float32, kv_heads=None, value_width=None):
    kv_heads = kv_heads or heads
    return (
        values((batch, heads, queries, width), dtype),
        values((batch, kv_heads, keys, width), dtype),
        values((batch, kv_heads, keys, value_width or width), dtype),
    )


def exact(q, k, v, mask=None, causal=False, scale=None, gqa=False):
    """The formula, in double."""
    q, k, v = q.double(), k.double(), v.double()
    if gqa:
        k, v = (x.repeat_interleave(q.size(1) // x.size(1), 1) for x in (k, v))
    scores = q @ k.transpose(-1, -2) * (scale or 1 / math.sqrt(q.size(-1)))
    if causal:
        scores = scores.masked_fill(
            torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf
        )
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1).nan_to_num(0) @ v


def assert_exact(q, k, v, mask=None, causal=False, scale=None, gqa=False):
    inputs = [q, k, v] if mask is None or mask.dtype == torch.bool else [q, k, v, mask]
    limit = LIMITS[q.dtype]
    reference = [x.double().requires_grad_() for x in inputs]
    moved = [x.to("accel").requires_grad_() for x in inputs]
    expected = exact(*reference[:3], reference[3] if len(inputs) > 3 else mask, causal, scale, gqa)
    device_mask = moved[3] if len(inputs) > 3 else (None if mask is None else mask.to("accel"))
    got = attention(
        *moved[:3], attn_mask=device_mask, is_causal=causal, scale=scale, enable_gqa=gqa
    )
    assert got.dtype == q.dtype and got.shape == expected.shape
    torch.testing.assert_close(got.detach().cpu().double(), expected, rtol=limit, atol=limit)
    seed = torch.randn(expected.shape).to(q.dtype)
    grads = torch.autograd.grad(got, moved, seed.to("accel"))
    for grad, reference_grad, x in zip(
        grads, torch.autograd.grad(expected, reference, seed.double()), inputs, strict=True
    ):
        assert grad.shape == x.shape and grad.dtype == x.dtype
        size = reference_grad.abs().max().item() + 1
        torch.testing.assert_close(
            grad.cpu().double(), reference_grad, rtol=limit, atol=limit * size
        )


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1, 8), (2, 3, 17, 17, 16), (1, 2, 65, 130, 64), (2, 2, 130, 33, 40)],
    ids=str,
)
def test_attention(sizes, causal, dtype):
    assert_exact(*qkv(*sizes, dtype), causal=causal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape", [(33, 40), (1, 40), (2, 1, 33, 40), (2, 3, 33, 40), (3, 33, 1)], ids=str
)
@pytest.mark.parametrize("kind", ["bool", "added"])
def test_masks(kind, shape, dtype):
    q, k, v = qkv(2, 3, 33, 40, 16, dtype)
    mask = torch.rand(shape) > 0.3 if kind == "bool" else values(shape, dtype)
    assert_exact(q, k, v, mask)


def test_an_fp32_mask_with_16_bit_inputs():
    q, k, v = qkv(2, 3, 33, 40, 16, torch.bfloat16)
    assert_exact(q, k, v, values((33, 40)))


def test_a_query_that_sees_no_key_gives_zeros():
    q, k, v = qkv(1, 2, 5, 9, 16)
    mask = torch.ones(5, 9, dtype=torch.bool)
    mask[2] = False
    assert_exact(q, k, v, mask)
    out = attention(*(x.to("accel") for x in (q, k, v)), attn_mask=mask.to("accel"))
    assert out[:, :, 2].eq(0).all().item()


def test_grouped_heads_value_width_and_scale():
    assert_exact(*qkv(2, 6, 33, 40, 16, kv_heads=2), gqa=True)
    assert_exact(*qkv(2, 6, 33, 40, 16, torch.bfloat16, kv_heads=1), gqa=True, causal=True)
    assert_exact(*qkv(2, 2, 33, 40, 16, value_width=24))
    assert_exact(*qkv(2, 2, 33, 40, 16), scale=0.3)


def test_heads_of_a_packed_projection():
    """q, k and v are slices of one [batch, length, 3 * heads * width] tensor, as in every GPT."""
    packed = values((2, 33, 3 * 4 * 16))

    def block(packed):
        q, k, v = (x.unflatten(-1, (4, 16)).transpose(1, 2) for x in packed.chunk(3, -1))
        return attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    assert_as_on_cpu(block, packed, backward=True, rtol=1e-4, atol=1e-4)


def test_the_result_lies_in_memory_as_the_query_does(counted):
    q, k, v = (x.to("accel").transpose(1, 2) for x in qkv(2, 33, 4, 4, 16))
    out = attention(q, k, v)
    assert out.shape == (2, 4, 33, 16) and out.stride() == q.stride()
    flat = out.transpose(1, 2).flatten(2)
    assert flat.data_ptr() == out.data_ptr()
    q, k, v = (x.contiguous() for x in (q, k, v))
    assert attention(q, k, v).is_contiguous()


def test_dropout_drops_scales_and_repeats():
    """With values that are the identity, the result is the matrix of probabilities."""
    length, p = 64, 0.25
    q, k = (values((2, 3, length, 32)).to("accel").requires_grad_() for _ in range(2))
    v = torch.eye(length).expand(2, 3, length, length).to("accel").requires_grad_()
    plain = attention(q, k, v).detach()
    torch.manual_seed(5)
    dropped = attention(q, k, v, dropout_p=p)
    torch.manual_seed(5)
    again = attention(q, k, v, dropout_p=p)
    assert torch.equal(dropped, again)
    assert not torch.equal(attention(q, k, v, dropout_p=p), again)
    kept = dropped.detach() != 0
    rate = 1 - kept.double().mean().item()
    assert abs(rate - p) < 4 * math.sqrt(p * (1 - p) / kept.numel())
    torch.testing.assert_close(dropped.detach(), plain * kept / (1 - p), rtol=1e-4, atol=1e-6)

    # Backward drops the same elements.
    reference = [x.detach().cpu().double().requires_grad_() for x in (q, k, v)]
    probabilities = (reference[0] @ reference[1].transpose(-1, -2) / math.sqrt(32)).softmax(-1)
    expected = (probabilities * kept.cpu() / (1 - p)) @ reference[2]
    seed = torch.randn(expected.shape)
    got = torch.autograd.grad(again, [q, k, v], seed.to("accel"))
    for a, b in zip(got, torch.autograd.grad(expected, reference, seed.double()), strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=1e-3, atol=1e-4)


def test_full_dropout_gives_zeros():
    q, k, v = (x.to("accel") for x in qkv(1, 2, 9, 9, 16))
    assert attention(q, k, v, dropout_p=1.0).eq(0).all().item()


@pytest.mark.parametrize("mask", [None, "bool", "learnt"], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_second_derivatives(kv_heads, dropout, causal, mask):
    """The fused kernel, and what takes its place when a gradient is differentiated."""
    inputs = qkv(1, 4, 3, 5, 2, torch.float64, kv_heads=kv_heads)
    inputs = [x.to("accel").requires_grad_() for x in inputs]
    flags = (torch.rand(4, 3, 5) > 0.3).to("accel") if mask == "bool" else None
    if mask == "learnt":
        inputs.append(values((3, 5), torch.float64).to("accel").requires_grad_())

    def function(q, k, v, learnt=None):
        torch.manual_seed(3)  # the same elements are dropped in each call
        added = flags if learnt is None else learnt
        return attention(
            q, k, v, added, dropout_p=dropout, is_causal=causal, enable_gqa=kv_heads != 4
        )

    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_gradients_that_are_differentiated_have_the_fused_ones_values(dtype):
    q, k, v = (x.to("accel").requires_grad_() for x in qkv(2, 6, 33, 40, 16, dtype, kv_heads=2))
    seed = values((2, 6, 33, 16), dtype).to("accel")
    out = attention(q, k, v, dropout_p=0.2, is_causal=True, enable_gqa=True)
    fused = torch.autograd.grad(out, (q, k, v), seed, retain_graph=True)
    composed = torch.autograd.grad(out, (q, k, v), seed, create_graph=True)
    for a, b in zip(fused, composed, strict=True):
        assert b.requires_grad and a.stride() == b.stride() and a.dtype == b.dtype
        torch.testing.assert_close(b.detach(), a, rtol=LIMITS[dtype], atol=LIMITS[dtype] * 4)


CHOICES = {
    "plain": (lambda: qkv(2, 3, 9, 9, 16), {}, SDPBackend.OVERRIDEABLE),
    "half": (lambda: qkv(2, 3, 9, 9, 16, torch.float16), {}, SDPBackend.OVERRIDEABLE),
    "3-D": (lambda: tuple(x[0] for x in qkv(2, 3, 9, 9, 16)), {}, SDPBackend.MATH),
    "wide": (lambda: qkv(2, 3, 9, 9, 300), {}, SDPBackend.MATH),
    "nothing": (lambda: qkv(2, 3, 0, 9, 16), {}, SDPBackend.MATH),
    "grouped": (
        lambda: qkv(2, 6, 9, 9, 16, kv_heads=2),
        {"enable_gqa": True},
        SDPBackend.OVERRIDEABLE,
    ),
    "broadcast": (lambda: qkv(2, 6, 9, 9, 16, kv_heads=1), {}, SDPBackend.MATH),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choice(name):
    make, options, expected = CHOICES[name]
    inputs = make()
    moved = [x.to("accel") for x in inputs]
    assert torch._fused_sdp_choice(*moved, **options) == expected.value
    torch.testing.assert_close(
        attention(*moved, **options).cpu(), attention(*inputs, **options), rtol=6e-3, atol=6e-3
    )


def test_the_choice_respects_sdpa_kernel():
    q, k, v = (x.to("accel") for x in qkv(2, 3, 9, 9, 16))
    fused = attention(q, k, v)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch._fused_sdp_choice(q, k, v) == SDPBackend.MATH.value
        torch.testing.assert_close(attention(q, k, v), fused, rtol=1e-5, atol=1e-5)
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        assert torch._fused_sdp_choice(q, k, v) == SDPBackend.OVERRIDEABLE.value
        with pytest.raises(RuntimeError, match="No viable backend"):
            attention(q[0], k[0], v[0])


def test_the_math_way_has_gradients_too():
    def math_attention(q, k, v):
        with sdpa_kernel(SDPBackend.MATH):
            return attention(q, k, v, is_causal=True)

    assert_as_on_cpu(math_attention, *qkv(2, 3, 9, 9, 16), backward=True, rtol=1e-4, atol=1e-4)


def test_fake_tensors_choose_and_run():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        q, k, v = (torch.empty(2, 3, 9, 16, device="accel", requires_grad=True) for _ in range(3))
        out = attention(q, k, v, is_causal=True)
        assert out.shape == (2, 3, 9, 16) and out.device.type == "accel"


def test_multi_head_attention_module():
    module = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    x = values((2, 9, 32))
    expected = module(x, x, x, need_weights=False)[0]
    module.to("accel")
    y = x.to("accel")
    torch.testing.assert_close(
        module(y, y, y, need_weights=False)[0].cpu(), expected, rtol=1e-4, atol=1e-4
    )


BAD = {
    "dtypes": lambda q: attention(q, q, q.double()),
    "key length": lambda q: attention(q, q, q[:, :, :2]),
    "mask shape": lambda q: attention(q, q, q, attn_mask=torch.ones(4, 3, device=q.device)),
    "mask of int": lambda q: attention(
        q, q, q, attn_mask=torch.ones(3, 3, dtype=torch.int64, device=q.device)
    ),
    "mask of double": lambda q: attention(
        q, q, q, attn_mask=torch.ones(3, 3, dtype=torch.float64, device=q.device)
    ),
    "dropout": lambda q: attention(q, q, q, dropout_p=1.5),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_cpu_s(name):
    # What the CPU's flash kernel lets pass is an error of the other implementations.
    if name == "key length":
        with pytest.raises(RuntimeError, match="size"):
            BAD[name](torch.ones(1, 2, 3, 4, device="accel"))
        return
    assert_same_error(
        lambda d: BAD[name](torch.ones(1, 2, 3, 4, device=d)), message=name != "mask shape"
    )


def test_attention_is_recorded(counted):
    q, k, v = (x.to("accel").requires_grad_() for x in qkv(2, 3, 33, 33, 16))
    seed = torch.randn(2, 3, 33, 16).to("accel")
    torch.accel.synchronize()
    natively(
        counted,
        lambda: torch.autograd.grad(
            attention(q, k, v, is_causal=True, dropout_p=0.1), [q, k, v], seed
        ),
    )


def test_flops_are_counted():
    from torch.utils.flop_counter import FlopCounterMode

    q = torch.randn(1, 2, 16, 8, device="accel", requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        attention(q, q, q).sum().backward()
    # Two products forward, five backward; 2 * 16 * 16 * 8 operations each, for two heads.
    assert counter.get_total_flops() == 7 * 2 * (2 * 16 * 16 * 8)
