"""Host ops: ATen's CPU kernels on the stream. What they compute, that they do not wait, what is
counted, and how the rest falls back."""

import gc

import pytest
import torch
from torch.nn import functional

# Ops without a kernel of the device's own, whose outputs are known before they run.
RECORDED = {
    "mode": lambda x: x.round().mode(-1),
    "inverse": lambda x: torch.linalg.inv_ex(x[:, :5] + 5 * torch.eye(5, device=x.device)),
    "svd": lambda x: torch.linalg.svdvals(x),
    "complex": lambda x: torch.fft.fft(x).abs(),
    "cdist": lambda x: torch.cdist(x, x + 1),
    "histc": lambda x: x.histc(4),
    "renorm": lambda x: x.renorm(2, 0, 1.0),
    "multilabel_margin": lambda x: functional.multilabel_margin_loss(
        x, torch.arange(7, device=x.device).expand(5, 7), reduction="none"
    ),
}


def host_tree(value):
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf, value
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RECORDED)
def test_results_are_the_cpu_s(name, dtype, counted):
    op = RECORDED[name]
    x = torch.randn(5, 7, dtype=dtype)
    expected = op(x)
    device_x = x.to("accel")
    op(device_x)
    with counted() as change:
        result = op(device_x)
    assert change["fallbacks"] == 0
    assert change["host_ops"] >= 1
    torch.testing.assert_close(host_tree(result), host_tree(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in RECORDED if "cpu_tensor" not in name])
def test_nothing_waits(name, counted):
    x = torch.randn(5, 7, device="accel")
    RECORDED[name](x)
    y = x + 1
    with counted() as change:
        RECORDED[name](y)
    assert change["waits"] == 0, torch.accel.report()


def test_views_are_read_and_written_in_place():
    x = torch.arange(24.0).reshape(4, 6)
    y = x.to("accel")
    for tensor in (x, y):
        column, block = tensor[:, 2], tensor[1:3, 1:4]
        column.index_fill_(0, torch.tensor([0, 3]).to(tensor.device), -1.0)
        block.t().cumsum_(0)
        tensor.view(-1)[::5].sub_(1)
        column.put_(torch.tensor([1]).to(tensor.device), torch.tensor([7.0]).to(tensor.device))
    torch.testing.assert_close(y.cpu(), x, rtol=0, atol=0)


def test_an_argument_that_is_written_and_read():
    x = torch.rand(6, 6)
    y = x.to("accel")
    for tensor in (x, y):
        tensor.scatter_add_(0, (tensor > 0.5).long(), tensor.clone())
        torch.cumsum(tensor, 1, out=tensor)
    torch.testing.assert_close(y.cpu(), x)


def test_out_arguments_are_resized_and_kept():
    x = torch.randn(4, 5)
    q, r = torch.empty(0, device="accel"), torch.empty(0, device="accel")
    torch.linalg.qr(x.to("accel"), out=(q, r))
    torch.testing.assert_close((q.cpu(), r.cpu()), tuple(torch.linalg.qr(x)))

    strided = torch.zeros(5, 4, device="accel").t()
    address = strided.data_ptr()
    result = torch.special.erfcx(x.to("accel"), out=strided)
    assert result is strided and strided.data_ptr() == address and strided.stride() == (1, 4)
    torch.testing.assert_close(strided.cpu(), torch.special.erfcx(x))
    with pytest.warns(UserWarning, match="resize"):
        torch.special.erfcx(x.to("accel"), out=torch.zeros(3, device="accel"))


def test_out_overloads_need_no_copy(counted):
    x = torch.randn(8, 8, device="accel")
    with counted() as change:
        torch.special.ndtri(x)
        x.renorm(2, 0, 1.0)
        torch.accel.synchronize()
    assert change["host_ops"] == 2
    assert change["host_op_copies"] == 0


def test_running_statistics_are_written():
    x = torch.randn(6, 3, 4, 4)
    results = []
    for device in ("cpu", "accel"):
        norm = torch.nn.BatchNorm2d(3).to(device)
        y = norm(x.to(device)) + 0
        norm.eval()
        results.append(
            (y.cpu(), norm.running_mean.cpu(), norm.running_var.cpu(), norm(x.to(device)).cpu())
        )
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_views_share_memory():
    x = torch.zeros(4, 2, device="accel")
    z = torch.view_as_complex(x)
    z[1] = 3 + 4j
    assert x.tolist() == [[0, 0], [3, 4], [0, 0], [0, 0]]
    assert torch.view_as_real(z).data_ptr() == x.data_ptr()
    assert z.real.data_ptr() == x.data_ptr() and z.imag.tolist() == [0, 4, 0, 0]


def test_conjugate_and_negative_bits():
    c = torch.randn(4, dtype=torch.complex64)
    x = c.to("accel")
    for op in (
        lambda z: z.conj(),
        lambda z: z.conj() + 1,
        lambda z: z.conj().imag,
        lambda z: z.conj().imag * 2,
        lambda z: z.conj().clone().conj_physical_(),
        lambda z: torch.zeros_like(z).conj().copy_(z),
        lambda z: z @ z.conj(),
    ):
        expected = op(c).resolve_conj().resolve_neg()
        torch.testing.assert_close(op(x).cpu().resolve_conj().resolve_neg(), expected)


def test_a_cpu_scalar_is_taken_at_the_call():
    x = torch.zeros(3, dtype=torch.complex64, device="accel")
    value = torch.tensor(2.0 + 1.0j)
    y = torch.add(x, value)
    value.fill_(100)
    assert y.tolist() == [2 + 1j] * 3


@pytest.mark.parametrize(
    "op",
    [
        lambda x: torch.multinomial(x, 5, replacement=True),
        lambda x: torch.poisson(x * 10),
        lambda x: torch.randperm(50, device=x.device),
        lambda x: x.clone().exponential_(),
        lambda x: x.clone().geometric_(0.3),
        lambda x: x.clone().cauchy_(),
        lambda x: torch.normal(x, 2.0),
    ],
    ids=["multinomial", "poisson", "randperm", "exponential", "geometric", "cauchy", "normal"],
)
def test_random_ops_follow_the_seed(op, counted):
    x = torch.rand(40, device="accel") + 0.1
    torch.manual_seed(3)
    first, second = op(x), op(x)
    torch.manual_seed(3)
    cpu_state = torch.get_rng_state()
    with counted() as change:
        again = op(x)
    assert change["waits"] == 0
    assert torch.equal(torch.get_rng_state(), cpu_state)
    assert torch.equal(again.cpu(), first.cpu())
    assert not torch.equal(second.cpu(), first.cpu())


def test_an_explicit_generator_is_used():
    x = torch.rand(40, device="accel")
    generator = torch.Generator("accel").manual_seed(5)
    first = torch.multinomial(x, 5, generator=generator)
    generator.manual_seed(5)
    assert torch.equal(torch.multinomial(x, 5, generator=generator).cpu(), first.cpu())
    with pytest.raises(RuntimeError, match="generator"):
        torch.multinomial(x, 5, generator=torch.Generator())


def test_accumulating_in_parallel_gives_the_same_bits_every_time():
    torch.manual_seed(0)
    index = torch.randint(50, (200_000,)).to("accel")
    values = torch.randn(200_000, device="accel")
    sums = set()
    for _ in range(5):
        x = torch.zeros(50, device="accel")
        x.index_put_((index,), values, accumulate=True)
        sums.add(bytes(x.cpu().view(torch.uint8).tolist()))
    assert len(sums) == 1


def test_a_fault_on_the_worker_keeps_its_type_and_names_the_op():
    x = torch.zeros(3, 4, device="accel")
    index = torch.tensor([7]).to("accel")
    torch.accel.synchronize()
    with pytest.raises((IndexError, RuntimeError), match="index_select") as caught:
        x.index_select(0, index)
        torch.accel.synchronize()
    assert "out of range" in str(caught.value) or "out of bounds" in str(caught.value)
    gc.collect()
    assert (x + 1).sum().item() == 12


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.ones(3, device=d).gather(1, torch.zeros(1, dtype=torch.int64, device=d)),
        lambda d: torch.ones(3, 4, device=d).sort(5),
        lambda d: torch.linalg.inv(torch.ones(3, 4, device=d)),
        lambda d: torch.ones(3, device=d).index_select(0, torch.ones(1, device=d)),
        lambda d: functional.max_pool2d(torch.ones(3, 2, 2, device=d), 5),
        lambda d: torch.ones(3, device=d).scatter_(
            0, torch.zeros(1, dtype=torch.int64, device=d), torch.ones(1, 1, device=d)
        ),
        lambda d: torch.ones(1, device=d).expand(3).cumsum_(0),
    ],
)
def test_wrong_arguments_give_the_cpu_s_error_at_the_call(call, counted):
    errors = []
    for device in ("cpu", "accel"):
        with counted() as change, pytest.raises(Exception) as caught:
            call(device)
        errors.append((type(caught.value), str(caught.value).splitlines()[0]))
        assert change["fallbacks"] == 0
    assert errors[0] == errors[1]


# ---- falling back ----


def test_values_that_depend_on_data(counted):
    x = torch.tensor([3, 0, 1, 3, 0], device="accel")
    with counted() as change:
        assert x.nonzero().tolist() == [[0], [2], [3]]
        assert x[x > 0].tolist() == [3, 1, 3]
        assert torch.equal(x, x.clone())
        assert not torch.equal(x, x + 1)
    assert change["fallbacks"] == 0
    with counted() as change:
        assert x.unique().tolist() == [0, 1, 3]
        assert x.unique_consecutive().tolist() == [3, 0, 1, 3, 0]
    assert change["fallbacks"] == 2
    assert torch.accel.report()["fallback"]["aten::unique_consecutive"] >= 1


def test_a_fallback_sees_all_recorded_writes_and_is_seen_by_later_reads():
    x = torch.zeros(1000, device="accel", dtype=torch.int64)
    for _ in range(50):
        x.add_(1)
    before = x + 0
    assert x.unique().tolist() == [50]
    out = torch.empty(0, dtype=torch.int64, device="accel")
    torch.nonzero(x - 50 + (torch.arange(1000, device="accel") == 3), out=out)
    x.zero_()
    assert out.tolist() == [[3]]
    assert before.sum().item() == 50_000


def test_a_layout_that_is_not_supported_is_an_error():
    with pytest.raises(NotImplementedError, match="Mkldnn"):
        torch.eye(3, device="accel").to_mkldnn()
    assert torch.ones(2, device="accel").sum().item() == 2


def test_a_fallback_warns_once_and_can_be_silenced(run_python):
    code = """
        import torch, warnings
        warnings.simplefilter("always")
        x = torch.tensor([3, 1, 3], device="accel")
        for _ in range(3):
            x.unique()
    """
    assert run_python(code, stderr=True).count("waits for the accel device") == 1
    assert "waits" not in run_python(code, stderr=True, ACCEL_FALLBACK="quiet")


def test_printing_is_no_fallback(counted):
    with counted() as change:
        assert "0.5" in repr(torch.full((3,), 0.5, device="accel"))
    assert change["fallbacks"] == 0


# ---- autocast ----


def test_autocast_has_the_lists_of_cuda():
    x = torch.randn(4, 4, device="accel")
    h = x.half()
    with torch.autocast("accel", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert functional.linear(x, x).dtype == torch.bfloat16
        assert h.exp().dtype == torch.float32
        assert h.softmax(-1).dtype == torch.float32
        assert h.sum().dtype == torch.float32
        assert h.norm().dtype == torch.float32
        assert torch.cat([x, x.bfloat16()]).dtype == torch.float32
        assert (x + 1).dtype == torch.float32
        with pytest.raises(RuntimeError, match="unsafe to autocast"):
            functional.binary_cross_entropy(x.sigmoid(), x.sigmoid())
    assert (x @ x).dtype == torch.float32
