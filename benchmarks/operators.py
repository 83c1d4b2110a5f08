"""Compares operators one at a time, forward or forward and backward, on accel with CPU eager.

    OMP_NUM_THREADS=1 python benchmarks/operators.py                   # all of them, float32
    python benchmarks/operators.py norm softmax --dtype bfloat16       # whose names hold these

Each call is waited for, so nothing is fused, and the time of an operator has its recording, its
hand-over and its memory in it. The two take turns, each in a process that is stopped while the
other runs. Prints a table in Markdown, the worst ratio first: minima and medians of a call.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import turns
from torch import Tensor
from torch.nn import functional

DEVICES = ("cpu", "accel")


@dataclass
class Case:
    """What is called, and on which tensors (made on the CPU); backward: with the gradients of those
    that are floating."""

    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    backward: bool = False


def make_cases(dtype: torch.dtype) -> dict[str, Case]:
    torch.manual_seed(0)

    def real(*sizes: int) -> Tensor:
        return torch.randn(sizes).to(dtype)

    def whole(below: int, *sizes: int) -> Tensor:
        return torch.randint(below, sizes)

    cases: dict[str, Case] = {}

    def add(name: str, function: Callable[..., Tensor], *tensors: Tensor, backward: bool = False):
        cases[name] = Case(function, tensors)
        if backward:
            cases[f"{name}, backward"] = Case(function, tensors, backward=True)

    _add_elementwise(add, real, whole)
    _add_reductions(add, real, whole)
    _add_layers(add, real, whole)
    _add_products(add, real)
    _add_indexing(add, real, whole)
    _add_movement(add, real, whole)
    _add_creation(add, real)
    if dtype == torch.float32:
        _add_linear_algebra(add, real)
    return cases


def _add_elementwise(add, real, whole) -> None:
    x, y = real(2048, 1024), real(2048, 1024)
    positive = x.abs() + 0.5
    for name in "exp log1p sigmoid tanh erf sin sqrt rsqrt abs neg reciprocal floor".split():
        add(name, getattr(torch, name), positive)
    for (
        name
    ) in "relu gelu silu elu softplus mish hardswish leaky_relu logsigmoid hardtanh glu".split():
        add(name, getattr(functional, name), x, backward=True)
    add("gelu, tanh", lambda x: functional.gelu(x, approximate="tanh"), x, backward=True)
    add("prelu", functional.prelu, x, real(1))
    for name in "add mul div maximum pow atan2 fmod remainder".split():
        add(name, getattr(torch, name), positive, y.abs() + 0.5)
    add("add, a row", torch.add, x, real(1024))
    add("add, a column", torch.add, x, real(2048, 1))
    add("where", torch.where, x > 0, x, y)
    add("clamp", lambda x: x.clamp(-1, 1), x)
    add("lerp", lambda x, y: torch.lerp(x, y, 0.3), x, y)
    add("addcmul", lambda x, y: torch.addcmul(x, x, y, value=0.5), x, y)
    add("lt", torch.lt, x, y)
    add("logical_and", torch.logical_and, x > 0, y > 0)
    add("add, int64", torch.add, whole(9, 2048, 1024), whole(9, 2048, 1024))
    add("masked_fill", lambda x, mask: x.masked_fill(mask, 0), x, y > 0)
    add("to another float", lambda x: x.to(_other(x.dtype)), x)
    add("to int32", lambda x: x.int(), x)
    add("tril", torch.tril, real(1024, 1024))
    add("dropout", lambda x: functional.dropout(x, 0.1), x, backward=True)


def _other(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.float32 else torch.float32


def _add_reductions(add, real, whole) -> None:
    x, y = real(2048, 1024), real(2048, 1024)
    for name in "sum mean amax argmax std prod norm".split():
        reduce = getattr(torch, name)
        add(name, reduce, x)
        for dim in (0, 1):
            add(f"{name}, dim {dim}", lambda x, f=reduce, d=dim: f(x, dim=d), x)
    for dim in (0, 1):
        add(f"softmax, dim {dim}", lambda x, d=dim: x.softmax(d), x, backward=True)
        add(f"log_softmax, dim {dim}", lambda x, d=dim: x.log_softmax(d), x, backward=True)
        add(f"logsumexp, dim {dim}", lambda x, d=dim: x.logsumexp(d), x)
        add(f"cumsum, dim {dim}", lambda x, d=dim: x.cumsum(d), x)
    add("max, dim 1", lambda x: x.max(1)[0], x)
    add("any", lambda x: x.any(), x > 9)
    add("sum, int64", torch.sum, whole(9, 2048, 1024))
    add("dot", torch.dot, x.flatten(), y.flatten())
    for name in "mse_loss smooth_l1_loss".split():
        add(name, getattr(functional, name), x, y, backward=True)
    add(
        "binary_cross_entropy_with_logits",
        functional.binary_cross_entropy_with_logits,
        *(x, (y > 0).to(y.dtype)),
        backward=True,
    )
    add("cross_entropy", functional.cross_entropy, real(512, 8192), whole(8192, 512), backward=True)
    add("cosine_similarity", functional.cosine_similarity, x, y)
    add("normalize", functional.normalize, x)


def _add_layers(add, real, whole) -> None:
    x, weight, bias = real(2048, 1024), real(1024), real(1024)
    add("layer_norm", lambda *a: functional.layer_norm(a[0], (1024,), *a[1:]), x, weight, bias)
    add(
        "layer_norm of 256",
        lambda *a: functional.layer_norm(a[0], (256,), *a[1:]),
        *(real(4096, 256), real(256), real(256)),
        backward=True,
    )
    add("rms_norm", lambda x, w: functional.rms_norm(x, (1024,), w), x, weight, backward=True)
    image, w, b = real(8, 64, 32, 32), real(64), real(64)
    add("group_norm", lambda x, w, b: functional.group_norm(x, 8, w, b), image, w, b, backward=True)
    add(
        "batch_norm",
        lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True),
        *(image, w, b),
        backward=True,
    )
    add("batch_norm, evaluation", functional.batch_norm, image, w, b.abs(), w, b)
    add("max_pool2d", lambda x: functional.max_pool2d(x, 2), image, backward=True)
    add("avg_pool2d", lambda x: functional.avg_pool2d(x, 3, 2, 1), image, backward=True)
    add("adaptive_avg_pool2d", lambda x: functional.adaptive_avg_pool2d(x, 1), image, backward=True)
    for mode in ("nearest", "bilinear"):
        function = lambda x, m=mode: functional.interpolate(x, scale_factor=2, mode=m)  # noqa: E731
        add(f"interpolate, {mode}", function, image, backward=True)
    convolve = functional.conv2d
    add(
        "conv2d, 3×3",
        lambda x, w: convolve(x, w, padding=1),
        image,
        real(64, 64, 3, 3),
        backward=True,
    )
    add("conv2d, 1×1", convolve, image, real(128, 64, 1, 1), backward=True)
    add(
        "conv2d, depthwise",
        lambda x, w: convolve(x, w, padding=1, groups=64),
        *(image, real(64, 1, 3, 3)),
        backward=True,
    )
    add("conv2d, stride 2", lambda x, w: convolve(x, w, None, 2, 1), image, real(128, 64, 3, 3))
    add(
        "conv_transpose2d",
        lambda x, w: functional.conv_transpose2d(x, w, None, 2, 1),
        *(image, real(64, 64, 4, 4)),
    )
    add(
        "conv1d",
        lambda x, w: functional.conv1d(x, w, None, 1, 2),
        real(8, 64, 1024),
        real(64, 64, 5),
    )
    heads = [real(4, 8, 256, 64) for _ in range(3)]
    attend = functional.scaled_dot_product_attention
    add("attention", attend, *heads)
    add("attention, causal", lambda *qkv: attend(*qkv, is_causal=True), *heads, backward=True)
    add("attention, one query", attend, real(4, 8, 1, 64), real(4, 8, 512, 64), real(4, 8, 512, 64))
    add("embedding", functional.embedding, whole(8192, 8, 256), real(8192, 512), backward=True)
    add("embedding_bag", functional.embedding_bag, whole(8192, 256, 32), real(8192, 64))


def _add_products(add, real) -> None:
    square = real(1024, 1024)
    add("mm", torch.mm, square, square)
    add("mm, transposed", lambda a, b: a @ b.T, square, square)
    add("linear, 64 rows", functional.linear, real(64, 1024), square, real(1024))
    add("linear, 1 row", functional.linear, real(1, 1024), square, real(1024))
    add("linear, 2048 rows", functional.linear, real(2048, 1024), square, real(1024), backward=True)
    add("bmm", torch.bmm, real(64, 128, 64), real(64, 64, 128))
    add("bmm of 16×16", torch.bmm, real(512, 16, 16), real(512, 16, 16))
    add("mv", torch.mv, square, real(1024))
    add("outer", torch.outer, real(1024), real(1024))
    add("mm of 8 rows", torch.mm, real(8, 4096), real(4096, 4096))


def _add_indexing(add, real, whole) -> None:
    x, rows, places = real(2048, 1024), whole(2048, 1024), whole(1024, 2048, 256)
    add("index_select", lambda x, i: x.index_select(0, i), x, rows)
    add("index, rows", lambda x, i: x[i], x, rows)
    add("index, elements", lambda x, i, j: x[i, j], x, whole(2048, 4096), whole(1024, 4096))
    add("index_add", lambda x, i, y: x.index_add(0, i, y), x, rows, real(1024, 1024))
    add("gather", lambda x, i: x.gather(1, i), x, places)
    add("scatter_add", lambda x, i, y: x.scatter_add(1, i, y), x, places, real(2048, 256))
    add("masked_select", torch.masked_select, x, x > 0)
    add("nonzero", torch.nonzero, x > 1)
    add("sort", lambda x: x.sort(1)[0], x)
    add("topk", lambda x: x.topk(10)[0], x)
    add("searchsorted", torch.searchsorted, real(1000).sort()[0], x)
    add("unique", torch.unique, whole(1000, 100_000))
    add("bincount", torch.bincount, whole(1000, 100_000))
    add("one_hot", lambda x: functional.one_hot(x, 1000), whole(1000, 512))


def _add_movement(add, real, whole) -> None:
    x, image, heads = real(2048, 1024), real(8, 64, 32, 32), real(4, 8, 256, 64)
    add("clone", torch.clone, x)
    add("transpose", lambda x: x.t().contiguous(), x)
    add("permute, heads", lambda x: x.permute(0, 2, 1, 3).contiguous(), heads)
    add("permute, channels last", lambda x: x.permute(0, 2, 3, 1).contiguous(), image)
    for dim in (0, 1):
        add(f"cat, dim {dim}", lambda x, y, d=dim: torch.cat([x, y], d), x, x)
    add("stack", lambda x, y: torch.stack([x, y]), x, x)
    add("flip", lambda x: x.flip(1), x)
    add("roll", lambda x: x.roll(3, 1), x)
    add("repeat_interleave", lambda x: x.repeat_interleave(2, 0), x)
    add("tile", lambda x: x.tile(2, 2), x)
    add("diff", torch.diff, x)
    add("pad", lambda x: functional.pad(x, (1, 1, 1, 1)), image)
    add("pad, reflect", lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"), image)
    add("unfold", lambda x: functional.unfold(x, 3, padding=1), image)
    add("pixel_shuffle", lambda x: functional.pixel_shuffle(x, 2), image)


def _add_creation(add, real) -> None:
    x = real(2048, 1024)
    for name in "zeros_like randn_like rand_like".split():
        add(name, getattr(torch, name), x)
    add("bernoulli", lambda x: x.bernoulli(0.5), x)
    add("randint", lambda x: torch.randint(10, x.shape, device=x.device), x)
    add("randperm", lambda x: torch.randperm(100_000, device=x.device), x)
    add("multinomial", lambda p: torch.multinomial(p, 1), real(64, 1000).softmax(1))
    add("arange", lambda x: torch.arange(1 << 20, device=x.device), x)


def _add_linear_algebra(add, real) -> None:
    root = real(64, 64)
    matrix = root @ root.T + torch.eye(64)
    for name in "cholesky inv eigvalsh svdvals det".split():
        add(name, getattr(torch.linalg, name), matrix)
    add("solve", torch.linalg.solve, matrix, root)
    add("rfft", torch.fft.rfft, real(2048, 1024))
    add("cdist", torch.cdist, real(512, 64), real(512, 64))


def _prepare(case: Case, device: str) -> Callable[[], object]:
    """The call, waited for."""
    tensors = [tensor.to(device) for tensor in case.tensors]
    wait = torch.accel.synchronize if device == "accel" else lambda: None
    if not case.backward:

        @torch.no_grad()
        def call():
            result = case.function(*tensors)
            wait()
            return result

        return call
    tensors = [t.requires_grad_() if t.is_floating_point() else t for t in tensors]
    leaves = [t for t in tensors if t.requires_grad]
    gradient = torch.ones_like(case.function(*tensors))

    def call():
        result = torch.autograd.grad(case.function(*tensors), leaves, gradient)
        wait()
        return result

    return call


def serve(device: str, dtype: torch.dtype, milliseconds: float) -> None:
    """Answers each line on stdin, a case's name, with the times of its calls in milliseconds."""
    cases = make_cases(dtype)
    calls: dict[str, Callable[[], object]] = {}
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name = line.rstrip("\n")
        if name not in calls:
            calls = {name: _prepare(cases[name], device)}
            for _ in range(3):
                calls[name]()
        times: list[float] = []
        while len(times) < 5 or sum(times) < milliseconds:
            start = time.perf_counter()
            calls[name]()  # what it returns is given back before the next call
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(times), flush=True)


def compare(options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """The times of each case on each device."""
    candidates: dict[str, turns.Candidate] = {}
    results: dict[str, dict[str, list[float]]] = {}
    names = [
        name
        for name in make_cases(options.dtype)
        if not options.names or any(part in name for part in options.names)
    ]
    try:
        for device in DEVICES:
            candidates[device] = turns.Candidate(
                [sys.executable, __file__, *sys.argv[1:], "--serve", device], ACCEL_FALLBACK="quiet"
            )
            candidates[device].answer()
            candidates[device].pause()
        for name in names:
            times = results[name] = {device: [] for device in DEVICES}
            for number in range(options.rounds):
                for device in DEVICES[number % 2 :] + DEVICES[: number % 2]:
                    times[device] += candidates[device].ask(name)
    finally:
        for candidate in candidates.values():
            candidate.close()
    return results


def table(results: dict[str, dict[str, list[float]]], dtype: torch.dtype) -> str:
    rows = []
    for name, times in results.items():
        least = {device: min(times[device]) for device in DEVICES}
        middle = {device: statistics.median(times[device]) for device in DEVICES}
        figures = [f"{v[d]:.3f}" for d in DEVICES for v in (least, middle)]
        ratios = [v["cpu"] / v["accel"] for v in (least, middle)]
        rows.append(
            (ratios[0], f"| {name} | {' | '.join(figures)} | {ratios[0]:.2f}× | {ratios[1]:.2f}× |")
        )
    slower = sum(ratio < 1 for ratio, _ in rows)
    return "\n".join(
        [
            f"Operators, {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads, "
            f"{torch.__version__}: {slower} of {len(rows)} take longer than on the CPU",
            "",
            "| operator | cpu: min, ms | median | accel: min | median | ratio: min | median |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(row for _, row in sorted(rows)),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="parts of operators' names (default: all)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (default: 2)")
    parser.add_argument(
        "--milliseconds", type=float, default=60, help="of calls, at least, a turn (default: 60)"
    )
    parser.add_argument("--serve", choices=DEVICES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.dtype = getattr(torch, options.dtype)
    if options.serve:
        serve(options.serve, options.dtype, options.milliseconds)
    else:
        print(table(compare(options), options.dtype))


if __name__ == "__main__":
    main()
