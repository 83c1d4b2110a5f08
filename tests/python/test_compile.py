"""torch.compile(backend="accel"): what it computes, that it is one call, and when it is not."""

import copy
import xml.etree.ElementTree
from collections.abc import Callable

import pytest
import torch
import torch._dynamo
from memory import allocated
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def _compiled(function: Callable, **settings) -> Callable:
    return torch.compile(function, backend="accel", fullgraph=True, **settings)


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 32),
        nn.Dropout(0.3),
        nn.GELU(),
        nn.BatchNorm1d(32),
        nn.Linear(32, 4),
    ).to("accel")


def _step(model: nn.Module, forward: Callable, rows: int):
    """The loss of one batch, and all that it leaves behind: gradients and buffers."""
    torch.manual_seed(rows)
    x = torch.randn(rows, 16, device="accel")
    y = torch.randint(0, 4, (rows,), device="accel")
    model.zero_grad()
    loss = functional.cross_entropy(forward(x), y)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters()), *model.buffers()]


def _counted(function: Callable) -> dict[str, int]:
    torch.accel.synchronize()
    torch.accel.reset_counters()
    function()
    torch.accel.synchronize()
    return torch.accel.counters()


def test_training_is_bit_for_bit_that_of_eager():
    model = _network()
    twin = copy.deepcopy(model)
    compiled = _compiled(twin)
    for _ in range(3):
        for got, expected in zip(_step(twin, compiled, 8), _step(model, model, 8), strict=True):
            assert torch.equal(got, expected)


def test_a_new_batch_size_compiles_nothing():
    model = _network()
    twin = copy.deepcopy(model)
    compiled = _compiled(twin)
    for rows in (8, 9, 10, 33, 2, 8, 17, 64, 9, 100, 33, 5):
        for got, expected in zip(
            _step(twin, compiled, rows), _step(model, model, rows), strict=True
        ):
            assert torch.equal(got, expected)
    # One graph for the first size, one for all others.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_graph_is_one_call():
    model = _network()
    compiled = _compiled(model)
    x = torch.randn(8, 16, device="accel")
    with torch.no_grad():
        compiled(x)
        counters = _counted(lambda: compiled(x))
    assert (counters["regions"], counters["nodes"], counters["plan_misses"]) == (1, 0, 0)
    assert set(torch.accel.report()["waits"]) == {"synchronize"}


def test_every_call_draws_its_own_random_numbers():
    def noisy(x):
        return functional.dropout(x, 0.5) + torch.rand_like(x)

    compiled = _compiled(noisy)
    x = torch.ones(1000, device="accel")
    torch.manual_seed(3)
    expected = [noisy(x) for _ in range(3)]
    torch.manual_seed(3)
    got = [compiled(x) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert not torch.equal(got[1], got[2])


def _layers(count: int = 4, width: int = 64) -> nn.Module:
    """Its backward needs more temporaries than there is room for in what it has not read yet."""
    torch.manual_seed(1)
    layers = [layer for _ in range(count) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*layers, nn.Linear(width, width)).to("accel")


def _peak(function: Callable) -> dict[str, int]:
    """Bytes above those before the call."""
    torch.accel.synchronize()
    torch.accel.reset_peak_memory_stats()
    before = torch.accel.memory_stats()
    function()
    torch.accel.synchronize()
    after = torch.accel.memory_stats()
    return {
        kind: after[f"{kind}_bytes.all.peak"] - before[f"{kind}_bytes.all.current"]
        for kind in ("allocated", "active")
    }


@pytest.mark.parametrize(("rows", "count", "width"), [(4096, 4, 64), (768, 12, 768)])
def test_peak_memory_is_at_most_that_of_eager(rows, count, width):
    # Activations of a MiB and small gradients; as much of either.
    model = _layers(count, width)
    compiled = _compiled(model)
    x = torch.randn(rows, width, device="accel")

    def step(forward: Callable) -> None:
        forward(x).square().mean().backward()
        model.zero_grad()

    for forward in (model, compiled):
        for _ in range(3):
            step(forward)
    eager, ours = _peak(lambda: step(model)), _peak(lambda: step(compiled))
    assert ours["allocated"] <= eager["allocated"]
    assert ours["active"] <= eager["active"]
    # Gradients take the place of activations: nothing waits for its turn beside them.
    assert ours["active"] <= eager["allocated"] + 4 * x.nbytes


def test_a_steps_activations_are_gone_before_those_of_the_next():
    model = _layers()
    compiled = _compiled(model)
    x = torch.randn(16384, 64, device="accel")

    def steps(count: int) -> None:
        for _ in range(count):
            compiled(x).square().mean().backward()
            model.zero_grad()

    steps(3)
    one, many = _peak(lambda: steps(1)), _peak(lambda: steps(6))
    # What queued work may hold when a run takes its memory.
    assert many["active"] <= one["active"] + (16 << 20)


def test_the_backward_runs_again_where_the_graph_is_retained():
    model = _layers()
    compiled = _compiled(model)
    x = torch.randn(256, 64, device="accel")

    def gradients(forward: Callable) -> list[torch.Tensor]:
        all_of_them = []
        for retained in (2, 0, 3, 1):
            loss = forward(x).square().mean()
            for _ in range(retained):
                all_of_them += torch.autograd.grad(loss, model.parameters(), retain_graph=True)
            all_of_them += torch.autograd.grad(loss, model.parameters())
        return all_of_them

    for got, expected in zip(gradients(compiled), gradients(model), strict=True):
        assert torch.equal(got, expected)


def test_what_somebody_still_holds_is_not_overwritten():
    """Activations that backward would overwrite, but for the views, the saved tensors of another
    graph, the weak references and the captured graph that hold them."""
    model = _layers()
    compiled = _compiled(model)
    x = torch.randn(256, 64, device="accel")
    kept: list[torch.Tensor] = []
    expected: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device.type == "accel" and tensor.dim() == 2 and tensor.shape[0] == 256:
            kept.append(tensor[1:, ::2])
            expected.append(tensor[1:, ::2].cpu())
        return tensor

    def step(forward: Callable) -> list[torch.Tensor]:
        return list(torch.autograd.grad(forward(x).square().mean(), model.parameters()))

    reference = step(model)
    for _ in range(3):
        step(compiled)
    function = compiled(x).grad_fn
    held = [tensor for tensor in function.saved_tensors if isinstance(tensor, torch.Tensor)]
    del function
    for turn in range(3):
        y = compiled(x)
        for tensor in y.grad_fn.saved_tensors[turn::3]:
            keep(tensor)
        loss = y.square().mean()
        # The same forward's output is used by eager code whose backward comes later.
        later = (y * 2).square().mean()
        grads = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
        again = torch.autograd.grad(later, model.parameters())
        for a, b, c in zip(grads, again, reference, strict=True):
            assert torch.equal(a, c) and torch.equal(b, 4 * c)
    assert kept and held
    for view, value in zip(kept, expected, strict=True):
        assert torch.equal(view.cpu(), value)


def test_what_a_captured_graph_reads_is_not_overwritten():
    """The user has let go of it, and each replay needs it."""

    def chain(x):
        for _ in range(5):
            x = torch.softmax(x @ x, -1)
        return x

    compiled = _compiled(chain)
    with torch.no_grad():
        for _ in range(3):
            compiled(torch.ones(64, 64, device="accel") / 64)
        static = torch.arange(4096.0, device="accel").view(64, 64) / 4096
        result = torch.empty_like(static)
        captured = torch.accel.Graph()
        with torch.accel.graph(captured):
            result.copy_(static * 2)
        expected = static.cpu() * 2
        held = [static]
        del static
        # Called as AOTAutograd calls a graph: with a list that is emptied.
        compiled(held.pop())
        captured.replay()
        assert torch.equal(result.cpu(), expected)


def test_work_of_other_streams_reads_what_was_there():
    model = _layers()
    compiled = _compiled(model)
    x = torch.randn(2048, 64, device="accel")
    side = torch.accel.Stream()

    def step() -> list[torch.Tensor]:
        y = compiled(x)
        saved = [t for t in y.grad_fn.saved_tensors if t.shape == x.shape]
        side.wait_stream(torch.accel.current_stream())
        with torch.accel.stream(side):
            # Slow, so that the backward below would overtake it.
            sums = [torch.cumsum(tensor.sin().cumsum(0), 0).sum() for tensor in saved]
        del saved
        y.square().mean().backward()
        model.zero_grad()
        torch.accel.synchronize()
        return sums

    first = step()
    for _ in range(5):
        for a, b in zip(step(), first, strict=True):
            assert torch.equal(a, b)


def test_attention_with_dropout_repeats_its_numbers_in_backward():
    q, k, v = (torch.randn(2, 4, 16, 8, device="accel", requires_grad=True) for _ in range(3))

    def attention(q, k, v):
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=0.4, is_causal=True)

    def gradients(function):
        torch.manual_seed(5)
        return [torch.autograd.grad(function(q, k, v).square().sum(), (q, k, v)) for _ in range(3)]

    compiled = _compiled(attention)
    for got, expected in zip(gradients(compiled), gradients(attention), strict=True):
        for a, b in zip(got, expected, strict=True):
            assert torch.equal(a, b)


def test_recomputed_dropout_draws_the_numbers_of_its_forward():
    from torch.utils.checkpoint import checkpoint

    layer = nn.Linear(64, 64).to("accel")

    def forward(x):
        return checkpoint(lambda y: functional.dropout(layer(y), 0.5), x, use_reentrant=False)

    compiled = _compiled(forward)
    x = torch.randn(8, 64, device="accel", requires_grad=True)
    outputs = [compiled(x) for _ in range(3)]
    assert not torch.equal(outputs[0], outputs[1])
    for output in reversed(outputs):  # not in the order of the forwards
        (gradient,) = torch.autograd.grad(output.sum(), x)
        kept = 2.0 * (output != 0)
        torch.testing.assert_close(gradient, kept @ layer.weight)


def test_inputs_and_buffers_are_written_in_place():
    def update(x, y):
        x.add_(y)
        x[0] = 7
        return x * 2, y.t()

    compiled = _compiled(update)
    for _ in range(3):
        x, y = torch.zeros(4, 4, device="accel"), torch.arange(16.0, device="accel").view(4, 4)
        result, transposed = compiled(x, y)
        expected = y.clone()
        expected[0] = 7
        assert torch.equal(x, expected) and torch.equal(result, 2 * expected)
        assert transposed.data_ptr() == y.data_ptr() and transposed.stride() == (1, 4)
        assert x._version > 0


# Programs over a cache [4, 6], rows [2, 6] and an index of two rows.
def _write_rows(cache, rows, index):
    cache.index_copy_(0, index, rows)
    return cache * 2


def _write_slice(cache, rows, index):
    cache[1:3] = rows
    cache[:, 2] = 5
    return cache.sum(0)


def _write_twice(cache, rows, index):
    cache.index_put_((index,), rows)
    first = cache * 2
    cache.index_add_(0, index, rows)
    return first, cache.exp()


def _write_and_read_the_old_values(cache, rows, index):
    written = cache.index_copy(0, index, rows)
    old = cache * 2
    cache.copy_(written)
    return old


def _write_and_read_a_view_of_the_old_values(cache, rows, index):
    view = cache.t()
    written = cache.index_copy(0, index, rows)
    old = view.exp()
    cache.copy_(written)
    return old


def _write_and_keep_the_old_values(cache, rows, index):
    rows.copy_(cache[0:2])
    cache.index_fill_(0, index, -1)
    return cache + rows.sum()


def _add_to_zeros(cache, rows, index):
    return torch.zeros_like(cache).index_put((index,), rows, accumulate=True) + cache


@pytest.mark.parametrize(
    ("function", "copies"),
    [
        (_write_rows, 0),
        (_write_slice, 0),
        (_write_twice, 0),
        (_write_and_read_the_old_values, None),
        (_write_and_read_a_view_of_the_old_values, None),
        (_write_and_keep_the_old_values, None),
        (_add_to_zeros, 0),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_parts_are_written_in_place(function, copies):
    """As eager does it, and without a copy of what the part is of where there need be none."""
    from torch_accel.compile import draw

    index = torch.tensor([3, 1], device="accel")

    def make() -> list[torch.Tensor]:
        torch.manual_seed(0)
        return [torch.randn(size, device="accel") for size in ((4, 6), (2, 6))]

    compiled = _compiled(function)
    for _ in range(2):
        expected, got = make(), make()
        results = tree_leaves(function(*expected, index)), tree_leaves(compiled(*got, index))
        for a, b in zip(results[0] + expected, results[1] + got, strict=True):
            assert torch.equal(a, b)
    if copies is not None:
        rows = draw(function, *make(), index).splitlines()
        whole = [row for row in rows if "96 B  writes    96 B" in row and row.endswith("Copy")]
        assert len(whole) == copies


def _returns_what_it_wrote(x, y, index):
    written = x.index_copy(0, index, y)
    x.copy_(written)
    return written.t()


def _turns_what_it_wrote(x, y, index):
    written = x.index_copy(0, index, y)
    x.copy_(written.t())
    return x + 1


def _writes_a_view_of_itself(x, y, index):
    written = x.slice_scatter(x[:3], 0, 1, 4)
    x.copy_(written)
    return x + y.sum()


@pytest.mark.parametrize(
    "function", [_returns_what_it_wrote, _turns_what_it_wrote, _writes_a_view_of_itself]
)
def test_a_write_that_cannot_be_in_place_is_left(function):
    from torch.fx.experimental.proxy_tensor import make_fx

    from torch_accel.passes import write_in_place

    def make() -> list[torch.Tensor]:
        torch.manual_seed(0)
        index = torch.tensor([3, 1], device="accel")
        return [torch.randn(4, 4, device="accel"), torch.randn(2, 4, device="accel"), index]

    graph = make_fx(function, tracing_mode="fake")(*make())
    write_in_place(graph)
    expected, got = make(), make()
    result = graph(*got)
    assert torch.equal(function(*expected), result)
    assert torch.equal(expected[0], got[0])
    got[0].zero_()
    assert torch.equal(function(*make()), result)


def test_arguments_that_share_memory():
    def mixed(a, b):
        a.mul_(2)
        return a + b

    compiled = _compiled(mixed)
    base = torch.arange(8.0, device="accel")
    twin = base.clone()
    for _ in range(2):
        assert torch.equal(compiled(base[:4], base[2:6]), mixed(twin[:4], twin[2:6]))
        assert torch.equal(base, twin)


def test_parts_of_a_storage_can_move():
    compiled = _compiled(lambda x: x.exp())
    base = torch.randn(10, 6, device="accel")
    for row in range(10):
        assert torch.equal(compiled(base[row]), base[row].exp())


def test_numbers_are_arguments():
    def scaled(x, factor, count):
        return x * factor + count, count + 1

    compiled = _compiled(scaled, dynamic=True)
    x = torch.ones(3, device="accel")
    for factor, count in ((2.0, 3), (2.0, 4), (3.5, 4), (-1.0, 7), (2.0, 3)):
        result, following = compiled(x, factor, count)
        assert result.tolist() == [factor + count] * 3 and following == count + 1


def test_an_op_without_a_rule_falls_back_inside_the_graph():
    def factored(x):
        return torch.geqrf(x @ x)[0] + 1

    x = torch.randn(6, 6, device="accel")
    compiled = _compiled(factored)
    compiled(x)
    for _ in range(4):
        counters = _counted(lambda: torch.testing.assert_close(compiled(x), factored(x)))
        assert counters["fallbacks"] == 2


def test_an_index_out_of_range_names_the_op():
    table = torch.randn(4, 8, device="accel")
    compiled = _compiled(functional.embedding)
    good, bad = (torch.tensor([i], device="accel") for i in (1, 9))
    compiled(good, table)
    compiled(bad, table)
    with pytest.raises(IndexError, match="embedding"):
        torch.accel.synchronize()
    assert torch.equal(compiled(good, table), table[1:2])


def test_tensors_of_the_cpu_run_as_they_are():
    compiled = _compiled(lambda x: x.sin() + 1)
    x = torch.randn(5)
    assert torch.equal(compiled(x), x.sin() + 1)


def test_constants_are_taken_at_the_capture():
    def shifted(x):
        return x + torch.tensor([1.0, 2.0, 3.0], device="accel")

    compiled = _compiled(shifted)
    for _ in range(3):
        assert compiled(torch.ones(3, device="accel")).tolist() == [2, 3, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_of_one_row_reads_a_cast_weight_as_it_is(dtype, transposed):
    weight = torch.randn(70, 33, device="accel") if transposed else torch.randn(33, 70).to("accel")
    weight.view(-1)[:4] = torch.tensor([1e-40, 70000.0, float("inf"), float("nan")])
    x = torch.randn(1, 70, device="accel").to(dtype)

    def product(x, weight):
        narrow = weight.to(dtype)
        return x @ (narrow if transposed else narrow.t())

    narrow = weight.to(dtype)  # lives on, so it is read
    expected = x @ (narrow if transposed else narrow.t())
    with torch.no_grad():
        torch.testing.assert_close(
            _compiled(product)(x, weight), expected, rtol=0, atol=0, equal_nan=True
        )


def test_memory_does_not_grow():
    model = _network()
    compiled = _compiled(model)
    for _ in range(3):
        _step(model, compiled, 8)
    before = allocated()
    for _ in range(100):
        _step(model, compiled, 8)
    assert allocated(at_most=before) == before


@pytest.mark.parametrize("partitioner", ["default", "min_cut"])
def test_checkpointing_and_autocast(partitioner):
    from torch.utils.checkpoint import checkpoint

    first, second = nn.Linear(16, 16).to("accel"), nn.Linear(16, 16).to("accel")

    def forward(x):
        with torch.autocast("accel", torch.bfloat16):
            return second(checkpoint(lambda y: functional.gelu(first(y)), x, use_reentrant=False))

    def gradients(function):
        x = torch.linspace(-1, 1, 64, device="accel").view(4, 16).requires_grad_()
        return torch.autograd.grad(function(x).float().square().sum(), (x, first.weight))

    compiled = _compiled(forward, options={"partitioner": partitioner})
    for _ in range(2):
        for got, expected in zip(gradients(compiled), gradients(forward), strict=True):
            torch.testing.assert_close(got, expected)


def test_wrong_settings_name_the_right_ones():
    x = torch.ones(3, device="accel")
    for settings, right in (
        ({"options": {"fuse": True}}, "partitioner, captures"),
        ({"options": {"partitioner": "none"}}, "default, min_cut"),
        ({"options": {"captures": 0}}, "positive integer"),
    ):
        torch._dynamo.reset()
        with pytest.raises(Exception, match=right):
            torch.compile(lambda x: x + 1, backend="accel", **settings)(x)
    with pytest.warns(UserWarning, match="nothing to tune"):
        torch._dynamo.reset()
        torch.compile(lambda x: x + 1, backend="accel", mode="max-autotune")(x)


def test_what_is_not_captured_is_counted_with_its_reason():
    compiled = _compiled(lambda x: x.multinomial(1))
    x = torch.ones(4, device="accel")
    torch.accel.reset_counters()
    for _ in range(5):
        compiled(x)
    (reason, count) = next(iter(torch.accel.report()["not_captured"].items()))
    assert "random numbers made on the host" in reason and count == 5


def test_slices_that_are_unpacked_have_one_gradient():
    def unpacked(x):
        first, second, third = x.movedim(1, 0)
        return first * second + third

    def partly(x):
        return x[0] * x[2] + x[0]

    def launches_of(function, x):
        grads = [torch.autograd.grad(f(x).sum(), x)[0] for f in (_compiled(function), function)]
        assert torch.equal(*grads)
        return draw(function, x).partition("backward")[2]

    from torch_accel.compile import draw

    x = torch.randn(3, 3, 4, device="accel", requires_grad=True)
    assert "Fill" not in launches_of(unpacked, x)
    assert "Fill" in launches_of(partly, x)


def test_equal_values_are_computed_once():
    from torch_accel.compile import draw

    def masks(x):
        results = []
        for _ in range(3):
            ahead = torch.arange(8, device=x.device)[:, None] >= torch.arange(8, device=x.device)
            results.append(x.masked_fill(ahead, 0).cumsum(0))
        return results

    def zeros(x):
        return (x * 0.0).exp().cumsum(0) / (x * -0.0), x.relu(), x.relu()

    x = torch.rand(8, 8, device="accel") + 1
    for function in (masks, zeros):
        for got, expected in zip(_compiled(function)(x), function(x), strict=True):
            assert torch.equal(got, expected)
    assert draw(masks, x).count("MaskedFill") == 1
    # What is returned twice is two tensors, and two draws of random numbers are two.
    first, second = _compiled(zeros)(x)[1:]
    assert first.data_ptr() != second.data_ptr()
    drop = functional.dropout
    first, second = _compiled(lambda x: (drop(x).cumsum(0), drop(x).cumsum(0)))(x)
    assert not torch.equal(first, second)


def test_values_are_not_equal_across_a_write():
    from torch.fx.experimental.proxy_tensor import make_fx

    from torch_accel.passes import share_equal_values

    def function(x):
        view = x.view(-1)
        before = view * 2
        x.add_(1)
        return before + view * 2

    x = torch.ones(3, device="accel")
    graph = make_fx(function)(x)
    share_equal_values(graph)
    assert torch.equal(graph(torch.ones(3, device="accel")), torch.full_like(x, 6))


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_ops_with_kernels_of_their_own_stay_whole(mode):
    from torch_accel.compile import draw

    def resize(x):
        return functional.interpolate(x, scale_factor=2, mode=mode)

    x = torch.randn(2, 3, 4, 5, device="accel", requires_grad=True)
    rows = [row for row in draw(resize, x).splitlines() if not row.startswith("graph")]
    assert len(rows) == 2 and all(row.endswith("Resampling") for row in rows)
    # PyTorch's own rules are back afterwards.
    lowered = torch.compile(resize, backend="aot_eager_decomp_partition", fullgraph=True)
    assert torch.allclose(lowered(x.detach().cpu()), resize(x).detach().cpu(), atol=1e-5)
    assert torch.ops.aten.upsample_nearest2d.default.py_kernels


def test_numbers_on_the_cpu_are_computed_first():
    def counted(x, count, scale, table):
        before = x * count
        count.add_(1)
        return before + x * count.sqrt() * scale, count * 2, table.to("accel") + x, x.shape[0]

    compiled = _compiled(counted)
    x = torch.randn(4, device="accel")
    counts = [torch.tensor(3.0), torch.tensor(3.0)]
    torch.accel.reset_counters()
    for turn in range(4):
        others = torch.tensor(0.1 * turn, dtype=torch.float64), torch.arange(4.0) + turn
        got, expected = (
            function(x, count, *others)
            for function, count in zip((compiled, counted), counts, strict=True)
        )
        for left, right in zip(got[:3], expected[:3], strict=True):
            assert left.device == right.device and torch.equal(left, right)
        assert got[3] == 4 and torch.equal(*counts)
    assert torch.accel.counters()["regions"] > 0
    assert "not_captured" not in torch.accel.report()


def test_values_of_the_device_are_written_to_numbers_on_the_cpu():
    def totaled(total, x):
        total += x.sum().cpu()
        total.mul_(2)
        return x * total

    compiled = _compiled(totaled)
    totals = [torch.tensor(1.0), torch.tensor(1.0)]
    for turn in range(3):
        x = torch.ones(3, device="accel") + turn
        got, expected = (
            function(total, x) for function, total in zip((compiled, totaled), totals, strict=True)
        )
        assert torch.equal(got, expected) and torch.equal(*totals)


def test_tensors_of_two_devices_run_op_by_op_with_the_reason():
    table, index = torch.randn(6, device="accel"), torch.tensor([4, 1])
    compiled = _compiled(lambda table, index: table[index] * 2)
    torch.accel.reset_counters()
    assert torch.equal(compiled(table, index), table[index] * 2)
    assert torch.accel.report()["not_captured"] == {"tensors on accel:0, cpu": 1}


def test_a_compiled_graph_is_part_of_a_larger_capture():
    compiled = _compiled(lambda x: x.exp() * 2)
    x = torch.zeros(4, device="accel")
    compiled(x)
    captured = torch.accel.Graph()
    with torch.accel.graph(captured):
        y = compiled(x) + 1
    x.fill_(1)
    captured.replay()
    torch.testing.assert_close(y, x.exp() * 2 + 1)


def test_a_drawing_shows_what_was_fused(tmp_path):
    from torch_accel import _C
    from torch_accel.compile import draw

    if not _C.fusion_enabled():
        pytest.skip("ACCEL_FUSION=0: nothing is")

    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4)).to("accel")
    path = tmp_path / "graph.svg"
    text = draw(lambda x: model(x).sum(), torch.randn(8, 16, device="accel"), path=str(path))
    assert text.startswith("graph 0, forward: 6 ops in ") and "graph 1, backward" in text
    assert "Matmul+Add+Gelu" in text
    # 2 * 8 * 32 * 16 operations; 8x16 and 16x32 inputs, 32 of bias: 4 bytes each.
    assert "reads 2.69 kB" in text and "8.19 kFLOP" in text
    # What is fused is a row of chips; the values that go on are wires with their sizes.
    picture = xml.etree.ElementTree.parse(path).getroot()
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    first = texts.index("Matmul")
    assert texts[first : first + 3] == ["Matmul", "Add", "Gelu"]
    assert "1.02 kB" in texts  # 8x32, from the first product to the second


def test_saving_what_compilers_cached_leaves_our_graphs_alone():
    compiled = _compiled(lambda x: x * 2 + 1)
    x = torch.arange(3.0, device="accel")
    compiled(x)
    saved = torch.compiler.save_cache_artifacts()
    if saved is not None:
        torch.compiler.load_cache_artifacts(saved[0])
    assert compiled(x).tolist() == [1, 3, 5]


# ---- what else can be compiled ----


def _assert_like_eager(function: Callable, *arguments: torch.Tensor, **settings) -> None:
    compiled = _compiled(function, **settings)
    for _ in range(3):
        torch.testing.assert_close(compiled(*arguments), function(*arguments))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        lambda p: torch.optim.AdamW(p, lr=1e-2, capturable=True),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2, device="accel"), capturable=True),
        lambda p: torch.optim.AdamW(p, lr=1e-2),  # counts its steps on the CPU
        lambda p: torch.optim.RMSprop(p, lr=1e-2),  # so does this
    ],
    ids=["sgd", "adamw capturable", "adam tensor lr", "adamw", "rmsprop"],
)
def test_an_optimizers_step(make):
    model = _network()
    twin = copy.deepcopy(model)
    optimizer, other = make(model.parameters()), make(twin.parameters())
    compiled = torch.compile(optimizer.step, backend="accel")
    torch.accel.reset_counters()
    for rows in range(2, 7):
        _step(model, model, rows)
        _step(twin, twin, rows)
        compiled()
        other.step()
    assert "not_captured" not in torch.accel.report()
    for parameter, its_twin in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, its_twin, rtol=1e-4, atol=1e-5)


def test_compiled_autograd():
    model = _network().eval()
    x = torch.randn(8, 16, device="accel")

    def gradients(train):
        model.zero_grad()
        train(x)
        return [p.grad.clone() for p in model.parameters()]

    def train(x):
        model(x).square().mean().backward()

    expected = gradients(train)
    with torch._dynamo.config.patch(compiled_autograd=True):
        compiled = torch.compile(train, backend="accel")
        for _ in range(3):
            torch.testing.assert_close(gradients(compiled), expected)


def test_function_transforms():
    x = torch.randn(4, 5, device="accel")
    _assert_like_eager(lambda x: torch.func.vmap(torch.func.grad(lambda y: y.sin().sum()))(x), x)
    _assert_like_eager(lambda x, t: torch.func.jvp(torch.tanh, (x,), (t,)), x, x + 1)


def test_control_flow_with_values_on_the_device():
    x = torch.randn(5, 3, device="accel")

    def branch(x, which):
        return torch.cond(which, lambda x: x.sin(), lambda x: x.cos(), (x,))

    for which in (True, False):
        torch._dynamo.reset()
        _assert_like_eager(branch, x, torch.tensor(which, device="accel"))

    def repeat(i, x):
        return torch.while_loop(lambda i, x: i < 5, lambda i, x: (i + 1, x * 2), (i, x))

    _assert_like_eager(repeat, torch.tensor(2, device="accel"), x)


def test_a_custom_op():
    @torch.library.custom_op("accel_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(torch.empty_like)
    _assert_like_eager(lambda x: twice(x.exp()) + 1, torch.randn(4, device="accel"))


def test_attention_of_any_length():
    def attention(q):
        return functional.scaled_dot_product_attention(q, q, q, is_causal=True)

    compiled = _compiled(attention, dynamic=True)
    for length in (5, 9, 16, 33):
        q = torch.randn(2, 2, length, 8, device="accel", requires_grad=True)
        got, expected = (
            torch.autograd.grad(function(q).square().sum(), q)[0]
            for function in (compiled, attention)
        )
        assert torch.equal(got, expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_flex_attention():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def near(score, batch, head, i, j):
        return score - 0.1 * (i - j).abs()

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 64, 64, device="accel")
    q, k, v = (torch.randn(1, 2, 64, 16, device="accel", requires_grad=True) for _ in range(3))
    places = torch.arange(64, device="accel")
    bias = -0.1 * (places[:, None] - places).abs()
    bias = bias.masked_fill(places[:, None] < places, -torch.inf)
    expected = functional.scaled_dot_product_attention(q, k, v, bias)
    got = _compiled(flex_attention)(q, k, v, score_mod=near, block_mask=mask)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), (q, k, v)),
        torch.autograd.grad(expected.square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
