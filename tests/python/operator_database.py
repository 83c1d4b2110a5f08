"""PyTorch's operator databases (operators, foreach operators, references in Python), run on the CPU
and on accel from the same samples.

`Variant(op, dtype)` is one row of the database; check(variant, kind) compares one kind of use of it
with the CPU and returns the differences, as text ("fusion" compares accel with itself, unfused).
Where the CPU differs from itself in the same comparison (random results, uninitialised memory, a
kernel whose bits wander), only shapes, dtypes and layouts are compared; where it raises, accel must
raise the same type.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch.testing._internal import common_methods_invocations as database
from torch.testing._internal import common_utils
from torch.testing._internal.opinfo import core as opinfo
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils import _pytree as pytree

import torch_accel

DEVICE = "accel"

# What a use may be, in the order of the tests.
KINDS = (
    "forward",
    "noncontiguous",
    "in_place",
    "out",
    "backward",
    "double_backward",
    "errors",
    "fusion",
    "compiled",
)

# "all" compiles every dtype of an operator, an hour's work, in place of one.
_COMPILED = os.environ.get("ACCEL_TEST_COMPILED", "one")


@dataclasses.dataclass(frozen=True)
class Variant:
    op: OpInfo
    dtype: torch.dtype

    @functools.cached_property
    def name(self) -> str:
        return f"{self.op.full_name.replace('.', '_')}-{str(self.dtype).removeprefix('torch.')}"

    def __str__(self) -> str:
        return self.name


def is_reference(op: OpInfo) -> bool:
    return op.full_name.startswith("_refs.")


def _order(dtype: torch.dtype) -> tuple[bool, str]:
    return (dtype != torch.float32, str(dtype))


def _first_dtype(op: OpInfo) -> torch.dtype:
    return min(op.supported_dtypes("cpu"), key=_order)


def variants() -> list[Variant]:
    """Every operator with every dtype that its CPU kernels support; the references in Python, which
    call operators, with one."""
    foreach = (
        database.foreach_unary_op_db
        + database.foreach_binary_op_db
        + database.foreach_pointwise_op_db
        + database.foreach_reduce_op_db
        + database.foreach_other_op_db
    )
    references = [Variant(op, _first_dtype(op)) for op in database.python_ref_db]
    return references + [
        Variant(op, dtype)
        for op in database.op_db + foreach
        for dtype in sorted(
            op.supported_dtypes("cpu") | op.supported_backward_dtypes("cpu"), key=_order
        )
        if dtype in op.supported_dtypes("cpu")
    ]


# Second derivatives in 16 bits are mostly rounding, and take the CPU minutes.
_TWICE = {torch.float32, torch.float64, torch.complex64, torch.complex128}


def has(variant: Variant, kind: str) -> bool:
    """Whether the database says that the operator can be used so with the dtype."""
    op, dtype = variant.op, variant.dtype
    if kind == "errors":
        return op.error_inputs_func is not None and dtype == _first_dtype(op)
    if is_reference(op):
        return kind == "forward"
    if kind == "in_place":
        return op.get_inplace() is not None
    if kind == "out":
        return op.supports_out
    if kind == "backward":
        return op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    if kind == "double_backward":
        return op.supports_gradgrad and dtype in op.supported_backward_dtypes("cpu") & _TWICE
    if kind == "fusion":
        return op.name not in _UNINITIALIZED
    if kind == "compiled":
        return dtype == _first_dtype(op) or _COMPILED == "all"
    return True


# ---- moving arguments ----


class Mover:
    """Moves the arguments of one call to a device: Tensors keep their sizes, strides and offsets,
    and those that share a storage go on sharing it."""

    def __init__(self, device: str):
        self._device = device
        self._storages: dict[int, torch.Tensor] = {}

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        if x.layout != torch.strided or x.is_quantized or x.is_nested or x.device.type != "cpu":
            moved = x.detach().to(self._device, copy=True)
        else:
            plain = x.detach()
            storage = plain.untyped_storage()
            if storage.data_ptr() not in self._storages or not storage.nbytes():
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self._storages[storage.data_ptr()] = whole.to(self._device, copy=True)
            moved = torch.empty(0, dtype=x.dtype, device=self._device)
            moved.set_(
                self._storages[storage.data_ptr()].untyped_storage(),
                plain.storage_offset(),
                plain.size(),
                plain.stride(),
            )
            if plain.is_conj():
                moved = moved.conj()
            if plain.is_neg():
                moved = moved._neg_view()
        return moved.requires_grad_(x.requires_grad)

    def __call__(self, arguments):
        def move(x):
            if isinstance(x, torch.Tensor):
                return self.tensor(x)
            if isinstance(x, torch.device) or (isinstance(x, str) and x == "cpu"):
                return torch.device(self._device)
            if isinstance(x, torch.Generator):
                moved = torch.Generator(self._device)
                moved.manual_seed(x.initial_seed())
                return moved
            return x

        return pytree.tree_map(move, arguments)


Call = tuple  # (input, args, kwargs)


def call_of(sample: SampleInput) -> Call:
    """What a sample calls its operator with."""
    return (sample.input, sample.args, sample.kwargs)


def _tensors(tree: object) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


# ---- comparing ----

# Relative and absolute. Both sides round the same values in another order; 16-bit results may
# differ by two roundings, since some CPU kernels round between steps.
_TOLERANCES = {
    torch.float32: (5e-5, 5e-5),
    torch.float64: (1e-7, 1e-7),
    torch.complex64: (5e-5, 5e-5),
    torch.complex128: (1e-7, 1e-7),
    torch.bfloat16: (3e-2, 3e-2),
    torch.float16: (5e-3, 5e-3),
    torch.complex32: (1e-2, 1e-2),
}


def describe(x: object) -> str:
    """What of a result does not depend on its values."""
    if not isinstance(x, torch.Tensor):
        return type(x).__name__
    return f"{x.dtype}{list(x.shape)} {x.layout} requires_grad {x.requires_grad}"


def _strides(tree: object) -> list[list[int]]:
    """The strides of every dense Tensor, where they mean something."""
    return [
        [s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1] if x.numel() else []
        for x in _tensors(tree)
        if x.layout == torch.strided
    ]


def _plain(x: torch.Tensor) -> torch.Tensor:
    x = x.detach().cpu()
    if x.is_quantized:
        return x.dequantize()
    if x.layout != torch.strided:
        return x.to_dense() if not x.is_nested else x.to_padded_tensor(0.0)
    return x.resolve_conj().resolve_neg()


# Statistics that are float32 on devices, as PyTorch's meta functions say, and 16-bit on the CPU.
_FLOAT32_STATISTICS = ("native_layer_norm", "native_batch_norm", "_native_batch_norm_legit")
_FLOAT32_STATISTICS += ("_batch_norm_with_update",)


# Algorithms that begin with random numbers, and should not depend on which.
_RANDOMISED = ("pca_lowrank", "svd_lowrank")

# How many times the tolerance: randomised algorithms, whose results agree only so far for different
# random numbers; softmax of scores in the thousands, where the rounding of a score (6e-5) becomes
# the relative error of a result.
_LOOSENESS = {
    **dict.fromkeys(_RANDOMISED, 10),
    "nn.functional.multi_head_attention_forward": 4,
}


def difference(expected: object, got: object, looseness: float = 1) -> str | None:
    """How two results differ, or None. The tolerances are those of the dtype, times looseness."""
    left, left_spec = pytree.tree_flatten(expected)
    right, right_spec = pytree.tree_flatten(got)
    if left_spec != right_spec:
        return f"structure {right_spec}, not {left_spec}"
    for number, (e, g) in enumerate(zip(left, right, strict=True)):
        where = f"result {number}"
        if describe(e) != describe(g):
            return f"{where}: {describe(g)}, not {describe(e)}"
        if isinstance(e, torch.Tensor):
            if e.device.type == "meta":
                continue
            e, g = _plain(e), _plain(g)
            rtol, atol = _TOLERANCES.get(e.dtype, (0, 0))
            if e.dtype.itemsize == 1 and e.dtype.is_floating_point:
                e, g, rtol, atol = e.float(), g.float(), 0.13, 0.02
            rtol, atol = rtol * looseness, atol * looseness
            try:
                torch.testing.assert_close(g, e, rtol=rtol, atol=atol, equal_nan=True)
            except AssertionError as error:
                return f"{where}: {' '.join(str(error).split())}"
        elif isinstance(e, float):
            if not (e == g or (e != e and g != g) or abs(e - g) <= 1e-4 * abs(e) + 1e-4):
                return f"{where}: {g}, not {e}"
        elif e != g and not isinstance(e, torch.device | torch.Generator):
            return f"{where}: {g!r}, not {e!r}"
    return None


# ---- the kinds of use ----


class _Raised:
    """What a call raised, in place of its result."""

    def __init__(self, error: Exception):
        self.error = error


def _attempt(function: Callable[[], object]) -> object:
    """The result, or what was raised at the call or at the next wait."""
    try:
        result = function()
        torch.accel.synchronize()
        return result
    except Exception as error:
        with contextlib.suppress(Exception):
            torch.accel.synchronize()
        return _Raised(error)


def _differentiable(tree: object) -> list[torch.Tensor]:
    return [
        x
        for x in _tensors(tree)
        if x.requires_grad and (x.is_floating_point() or x.is_complex()) and x.grad_fn is None
    ]


def _cotangents(results: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def like(x: torch.Tensor) -> torch.Tensor:
        dtype = torch.complex128 if x.is_complex() else torch.float64
        made = torch.randn(x.shape, generator=generator, dtype=dtype).to(x.dtype).to(x.device)
        return made if x.layout == torch.strided else made.to_sparse()

    return [like(x) for x in results]


def _gradients(result: object, call: Call, sample: SampleInput, twice: bool) -> list:
    result = sample.output_process_fn_grad(result)
    wanted = _differentiable(call)
    roots = [x for x in _tensors(result) if x.requires_grad]
    if not roots or not wanted:
        return []
    seeds = [x.requires_grad_(twice) for x in _cotangents(roots, 7)]
    first = torch.autograd.grad(roots, wanted, seeds, create_graph=twice, allow_unused=True)
    if not twice:
        return list(first)
    again = [x for x in first if x is not None and x.requires_grad]
    if not again:
        return []
    return list(
        torch.autograd.grad(again, wanted + seeds, _cotangents(again, 8), allow_unused=True)
    )


# Operators whose further arguments must be on the CPU, on every device.
_CPU_ARGUMENTS = ("tensor_split", "_refs.tensor_split")


def _use(variant: Variant, kind: str, sample: SampleInput, device: str) -> object:
    """What the kind of use gives on the device: results to compare."""
    op = variant.op
    call = Mover(device)(call_of(sample))
    if op.name in _CPU_ARGUMENTS:
        call = (call[0], sample.args, sample.kwargs)
    x, args, kwargs = call
    if kind in ("forward", "noncontiguous"):
        result = op(x, *args, **kwargs)
        return result, [t.detach() for t in _tensors(call)]
    if kind in ("backward", "double_backward"):
        return _gradients(op(x, *args, **kwargs), call, sample, kind == "double_backward")
    if kind == "compiled":
        backend = "accel" if device == DEVICE else "aot_eager"
        compiled = torch.compile(
            lambda x, args, kwargs: op(x, *args, **kwargs), backend=backend, fullgraph=True
        )
        try:
            return _with_gradients(
                lambda x, *args, **kwargs: compiled(x, args, kwargs), call, sample
            )
        finally:
            torch._dynamo.reset()  # what it keeps, a test would be blamed for
    if kind == "in_place":
        if not isinstance(x, torch.Tensor):
            x = [t.detach().clone() for t in x]
        elif x.requires_grad:
            x = x.detach().clone()
        result = op.get_inplace()(x, *args, **kwargs)
        return result, x
    if kind == "out":
        with torch.no_grad():
            expected = op(sample.input, *sample.args, **sample.kwargs)
            outs = []
            # Memory to write into: too small, laid out otherwise, and as it comes.
            for shape in ("fitting", "strided", "empty"):
                made = pytree.tree_map(functools.partial(_out, shape, device), expected)
                result = op(x, *args, **kwargs, out=made)
                outs.append((result, made))
            return outs
    raise ValueError(kind)


def _out(shape: str, device: str, like: object) -> object:
    if not isinstance(like, torch.Tensor):
        return like
    if shape == "fitting":
        return torch.zeros_like(like, device=device)
    if shape == "empty":
        return torch.empty(0, dtype=like.dtype, device=device)
    wide = torch.zeros((*like.shape, 2), dtype=like.dtype, device=device)
    return wide[..., 1]


def samples(variant: Variant, kind: str) -> Iterator[SampleInput]:
    """The database's samples, made on the CPU, always the same."""
    torch.manual_seed(0)
    requires_grad = kind in ("backward", "double_backward")
    if kind == "compiled":
        requires_grad = has(variant, "backward")
    made = variant.op.sample_inputs("cpu", variant.dtype, requires_grad=requires_grad)
    for sample in made:
        if kind == "compiled" and variant.op.name == "narrow" and _tensors(sample.args):
            continue  # TorchDynamo reads integers on the CPU while it traces, for any backend
        if kind == "noncontiguous":
            if any(x.layout != torch.strided for x in _tensors(call_of(sample))):
                continue
            sample = sample.noncontiguous()
        yield sample


@contextlib.contextmanager
def _unobserved() -> Iterator[None]:
    """Keeps PyTorch from looking at the stack, which would be nine tenths of a run's time: a seed
    formats it for each kind of device that the machine lacks (to set it when that comes), and
    samples search it for the unittest that asked."""
    with contextlib.ExitStack() as stack:
        for absent in (torch.cuda, torch.xpu, torch.mtia):
            stack.enter_context(mock.patch.object(absent, "manual_seed_all", lambda seed: None))
        for module in (common_utils, opinfo):
            stack.enter_context(mock.patch.object(module, "extract_test_fn", lambda: None))
        yield


def check(variant: Variant, kind: str, limit: int | None = None) -> list[str]:
    """The differences between accel and the CPU, one line each; at most `limit` samples."""
    with _unobserved(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "errors":
            return _check_errors(variant)
        if kind == "fusion":
            return _check_fusion(variant)
        if kind == "compiled":
            return _check_compiled(variant)
        return _check_samples(variant, kind, limit)


def _check_samples(variant: Variant, kind: str, limit: int | None) -> list[str]:
    found = []
    for number, sample in enumerate(samples(variant, kind)):
        if limit is not None and number >= limit:
            break
        text = _check_sample(variant, kind, sample)
        if text is not None:
            found.append(f"{kind}, sample {number} ({sample.name or _summary(sample)}): {text}")
    return found


def _check_sample(variant: Variant, kind: str, sample: SampleInput) -> str | None:
    def use(device: str) -> object:
        torch.manual_seed(0)
        return _attempt(lambda: _use(variant, kind, sample, device))

    expected, got = use("cpu"), use(DEVICE)
    if variant.op.name in _FLOAT32_STATISTICS and variant.dtype.itemsize == 2:
        expected, got = (_with_narrow_statistics(x, variant.dtype) for x in (expected, got))
    if kind == "compiled" and isinstance(expected, _Raised):
        return None  # what cannot be traced for any backend
    refused = kind == "in_place" and sample.broadcasts_input
    if isinstance(expected, _Raised) and not isinstance(got, _Raised) and not refused:
        return None  # more than the CPU can; what it refuses on purpose is in the error inputs
    text = _verdict(expected, got, _LOOSENESS.get(variant.op.name, 1))
    if isinstance(expected, _Raised) or isinstance(got, _Raised):
        return text
    if text is not None:
        if _shapes(expected) != _shapes(got):
            return text
        if not (
            variant.op.name.removeprefix("_refs.") in _UNINITIALIZED
            or _names_equal_elements(variant, kind, sample, expected, got)
            or _is_as_accurate(variant, kind, sample, expected, got)
            or _wanders(expected, use)
            or _is_a_bad_draw(variant, expected, use)
        ):
            return text
    if is_reference(variant.op):
        return None  # strides are as the operators have them that it calls
    if kind in ("forward", "noncontiguous") and _strides(expected) != _strides(got):
        # Results that are inferred have the strides of the meta function, as on other devices.
        meta = use("meta")
        if not isinstance(meta, _Raised) and _strides(meta[0]) != _strides(got[0]):
            return f"strides {_strides(got)}, not {_strides(expected)}"
    return None


def _with_narrow_statistics(tree: object, dtype: torch.dtype) -> object:
    return pytree.tree_map_only(
        torch.Tensor, lambda x: x.to(dtype) if x.dtype == torch.float32 else x, tree
    )


_WIDER = {
    torch.float32: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float16: torch.float64,
    torch.complex64: torch.complex128,
}


def _is_as_accurate(
    variant: Variant, kind: str, sample: SampleInput, expected: object, got: object
) -> bool:
    """Whether, measured at the CPU's result in double precision, accel is not much further off than
    the CPU: a sample that is badly conditioned has no better answer. Where the CPU lost a value to
    an infinity or a NaN, accel may have it, or have lost it otherwise."""
    if all(x.dtype not in _WIDER for x in _tensors(call_of(sample))):
        return False

    def widened(x: object) -> object:
        if isinstance(x, torch.Tensor) and x.dtype in _WIDER and x.layout == torch.strided:
            return x.detach().to(_WIDER[x.dtype]).requires_grad_(x.requires_grad)
        return _WIDER.get(x, x) if isinstance(x, torch.dtype) else x

    wide = sample.transform(widened)
    torch.manual_seed(0)
    exact = _attempt(lambda: _use(variant, kind, wide, "cpu"))
    if isinstance(exact, _Raised):
        return False
    exact, expected, got = _tensors(exact), _tensors(expected), _tensors(got)
    if not len(exact) == len(expected) == len(got):
        return False
    for e, c, g in zip(exact, expected, got, strict=True):
        if not e.dtype.is_floating_point and not e.dtype.is_complex:
            if not torch.equal(_plain(c), _plain(g)):
                return False
            continue
        if e.shape != c.shape:
            return False
        e, c, g = _plain(e), _plain(c), _plain(g)
        lost = e.isfinite() & (e.abs() <= torch.finfo(c.dtype).max) & ~c.isfinite()
        if not torch.equal(c.isfinite()[~lost], g.isfinite()[~lost]):
            return False
        won = lost & g.isfinite()
        if difference(e[won].to(g.dtype), g[won]) is not None:
            return False
        finite = e.isfinite() & c.isfinite()
        if difference(c[finite], g[finite]) is None:
            continue
        off = [(x.to(e.dtype) - e)[finite].abs().max().item() for x in (c, g)]
        rounding = torch.finfo(variant.dtype).eps * e[finite].abs().max().item()
        if off[1] > 8 * off[0] + 8 * rounding:
            return False
    return True


# Which of several equal elements they name is nobody's promise.
_NAME_PLACES = ("sort", "msort", "argsort", "topk", "kthvalue", "median", "nanmedian")


def _names_equal_elements(
    variant: Variant, kind: str, sample: SampleInput, expected: object, got: object
) -> bool:
    """Whether places differ only among equal elements, and gradients only in which of them they go
    to. Values have to agree."""
    if variant.op.name.removeprefix("_refs.") not in _NAME_PLACES:
        return False
    if kind == "compiled":  # results, and gradients
        parts = zip(("forward", "backward"), expected, got, strict=True)
        return all(_names_equal_elements(variant, part, sample, e, g) for part, e, g in parts)
    x = sample.input.detach()

    def elements(places: torch.Tensor, dim: int) -> torch.Tensor:
        kept = places.dim() == x.dim()
        return x.gather(dim, places if kept else places.unsqueeze(dim))

    def fits(places: torch.Tensor, dim: int) -> bool:
        rest = [n for d, n in enumerate(places.shape) if d != dim or places.dim() != x.dim()]
        valid = not places.numel() or 0 <= places.min() <= places.max() < x.size(dim)
        return valid and rest == [n for d, n in enumerate(x.shape) if d != dim]

    for e, g in zip(_tensors(expected), _tensors(got), strict=True):
        if describe(e) != describe(g):
            return False
        e, g = _plain(e), _plain(g)
        if kind in ("backward", "double_backward"):
            e, g = e.flatten().sort().values, g.flatten().sort().values
        elif e.dtype == torch.int64 and x.dim() > 0:
            dims = [dim for dim in range(x.dim()) if fits(e, dim) and fits(g, dim)]
            if any(difference(elements(e, dim), elements(g, dim)) is None for dim in dims):
                continue
        if difference(e, g) is not None:
            return False
    return True


def _wanders(expected: object, use: Callable[[str], object]) -> bool:
    """Whether the CPU gives other values with other random numbers."""
    return any(difference(expected, _use_with(use, "cpu", n)) is not None for n in range(1, 33))


def _is_a_bad_draw(variant: Variant, expected: object, use: Callable[[str], object]) -> bool:
    """Whether a randomised algorithm drew a badly conditioned matrix to begin with, which second
    derivatives amplify: with other numbers accel gives the CPU's values, but for one more such."""
    if variant.op.name not in _RANDOMISED:
        return False
    others = (_use_with(use, DEVICE, number) for number in range(1, 9))
    return sum(difference(expected, other) is None for other in others) >= 7


def _use_with(use: Callable[[str], object], device: str, number: int) -> object:
    """use(device) with other random numbers."""
    seed = torch.manual_seed
    try:
        # The database seeds its own before a random operator: another state there as well.
        torch.manual_seed = lambda given: seed(given + 7919 * number)
        return use(device)
    finally:
        torch.manual_seed = seed


# Memory that nobody has written.
_UNINITIALIZED = ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty")
_UNINITIALIZED += ("new_empty_strided",)


def _shapes(tree: object) -> list[str]:
    return [describe(x) for x in pytree.tree_leaves(tree)]


def _verdict(expected: object, got: object, looseness: float = 1) -> str | None:
    if isinstance(expected, _Raised) and isinstance(got, _Raised):
        if type(expected.error) is type(got.error):
            return None
        return f"raises {_said(got.error)}, where the CPU raises {_said(expected.error)}"
    if isinstance(expected, _Raised):
        return f"gives a result, where the CPU raises {_said(expected.error)}"
    if isinstance(got, _Raised):
        return f"raises {_said(got.error)}"
    return difference(expected, got, looseness)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _summary(sample: SampleInput) -> str:
    shapes = [
        list(x.shape) if isinstance(x, torch.Tensor) else x
        for x in pytree.tree_leaves(call_of(sample))
    ]
    return ", ".join(str(x) for x in shapes)[:120]


def _check_errors(variant: Variant) -> list[str]:
    found = []
    for number, entry in enumerate(variant.op.error_inputs("cpu")):
        sample = entry.sample_input

        def use(device: str, sample: SampleInput = sample) -> object:
            def run():
                x, args, kwargs = Mover(device)(call_of(sample))
                return variant.op(x, *args, **kwargs)

            return _attempt(run)

        expected, got = use("cpu"), use(DEVICE)
        if not isinstance(expected, _Raised):
            continue  # the database expects an error of other devices
        text = _verdict(expected, got)
        if text is not None:
            found.append(f"errors, input {number} ({_summary(sample)}): {text}")
    return found


# How many samples one graph holds: a compilation costs as much as tracing some dozens of operators.
_SAMPLES_A_GRAPH = 32


def _check_compiled(variant: Variant) -> list[str]:
    """torch.compile(backend="accel", fullgraph=True): many samples in one graph, against the CPU
    without a compiler. Those that differ, and all of a graph that raises, are tried one by one
    against backend "aot_eager" on the CPU."""
    found = []
    numbered = enumerate(samples(variant, "compiled"))
    while batch := list(itertools.islice(numbered, _SAMPLES_A_GRAPH)):
        agrees = _agree_in_one_graph(variant, [sample for _, sample in batch])
        for (number, sample), equal in zip(batch, agrees, strict=True):
            text = None if equal else _check_sample(variant, "compiled", sample)
            if text is not None:
                found.append(f"compiled, sample {number} ({_summary(sample)}): {text}")
    return found


def _agree_in_one_graph(variant: Variant, batch: list[SampleInput]) -> list[bool]:
    """Which samples give the CPU's results and gradients as parts of one compiled graph."""
    eager = []
    for sample in batch:
        call = Mover("cpu")(call_of(sample))
        eager.append(_attempt(lambda c=call, s=sample: _with_gradients(variant.op, c, s)))
    places = [place for place, result in enumerate(eager) if not isinstance(result, _Raised)]
    chosen = [batch[place] for place in places]
    agrees = [False] * len(batch)

    def together(calls: list[Call]) -> list[object]:
        return [variant.op(x, *args, **kwargs) for x, args, kwargs in calls]

    def run() -> list[object]:
        calls = [Mover(DEVICE)(call_of(sample)) for sample in chosen]
        results = torch.compile(together, backend="accel", fullgraph=True)(calls)
        return list(zip(results, _gradients_together(results, calls, chosen), strict=True))

    torch.manual_seed(0)
    got = _attempt(run)
    torch._dynamo.reset()  # what it keeps, a test would be blamed for
    if not isinstance(got, _Raised):
        for place, result in zip(places, got, strict=True):
            agrees[place] = difference(eager[place], result) is None
    return agrees


def _with_gradients(op: Callable, call: Call, sample: SampleInput) -> object:
    result = op(call[0], *call[1], **call[2])
    return result, _gradients(result, call, sample, twice=False)


def _gradients_together(
    results: list[object], calls: list[Call], batch: list[SampleInput]
) -> list[list]:
    """_gradients() of each result, by one backward through all of them."""
    roots, wanted, seeds = [], [], []
    for result, call, sample in zip(results, calls, batch, strict=True):
        made = [x for x in _tensors(sample.output_process_fn_grad(result)) if x.requires_grad]
        leaves = _differentiable(call) if made else []
        wanted.append(leaves)
        if leaves:
            roots += made
            seeds += _cotangents(made, 7)
    flat = [x for leaves in wanted for x in leaves]
    gradients = iter(torch.autograd.grad(roots, flat, seeds, allow_unused=True) if flat else [])
    return [[next(gradients) for _ in leaves] for leaves in wanted]


# LAPACK's gelsy gives other bits for other addresses: fifty runs on the CPU gave three results.
_ADDRESS_DEPENDENT = ("linalg.lstsq",)


def _bits(tree: object) -> list[object]:
    """The results as bytes, beside what describes them. NaNs are all one: which of two a product
    returns depends on the order of its factors, which compilers are free to choose."""

    def bytes_of(x: torch.Tensor) -> bytes:
        x = _plain(x).clone(memory_format=torch.contiguous_format).flatten()
        values = torch.view_as_real(x) if x.is_complex() else x
        if values.is_floating_point() and values.dtype.itemsize > 1:  # no arithmetic with float8
            values[values.isnan()] = math.nan
        return bytes(x.view(torch.uint8).numpy())

    return [
        (describe(x), bytes_of(x)) if isinstance(x, torch.Tensor) else repr(x)
        for x in pytree.tree_leaves(tree)
        if not isinstance(x, torch.Generator)
    ]


def _between(x: object) -> object:
    """Something to fuse with: a product and a sum, where the dtype has them."""
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided or x.device.type != DEVICE:
        return x
    if not (x.is_floating_point() or x.is_complex()) or x.dtype.itemsize == 1:
        return x
    return x * 0.75 + x


@contextlib.contextmanager
def _fusion(enabled: bool) -> Iterator[None]:
    before = torch_accel._C.fusion_enabled()
    torch_accel._C.set_fusion_enabled(enabled)
    try:
        yield
    finally:
        torch_accel._C.set_fusion_enabled(before)


def _check_fusion(variant: Variant) -> list[str]:
    """Contract 2: the same bits whether Nodes are planned together or one by one; pointwise work
    before and behind the operator, forward and backward."""
    kind = "backward" if has(variant, "backward") else "forward"

    def run(sample: SampleInput) -> object:
        call = Mover(DEVICE)(call_of(sample))
        # A view of what comes back to a user may be written by the operator: fresh leaves only.
        x, args, kwargs = pytree.tree_map(_between, call) if kind == "backward" else call
        result = pytree.tree_map(_between, variant.op(x, *args, **kwargs))
        if kind == "forward":
            return result
        return result, _gradients(result, call, sample, twice=False)

    found = []
    for number, sample in enumerate(samples(variant, kind)):
        results = []
        for fused in (True, False):
            with _fusion(fused):
                torch.manual_seed(0)
                results.append(_attempt(lambda sample=sample: run(sample)))
        raised = [isinstance(x, _Raised) for x in results]
        if any(raised):
            if not all(raised):
                found.append(f"fusion, sample {number}: raises {raised}, fused and not")
        elif _bits(results[0]) != _bits(results[1]):
            text = difference(results[1], results[0])
            if text is None and variant.op.name in _ADDRESS_DEPENDENT:
                continue
            found.append(f"fusion, sample {number} ({_summary(sample)}): {text or 'rounding'}")
    return found
