"""PyTorch's module database: every torch.nn module on accel gives the CPU's results, gradients and
buffers, in training and evaluation."""

import copy
import warnings

import pytest
import torch
from operator_database import Mover, difference
from torch.testing._internal.common_modules import module_db
from torch.utils import _pytree as pytree

pytestmark = pytest.mark.slow

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES += (torch.complex64, torch.complex128, torch.complex32)
CASES = [
    pytest.param(info, dtype, id=f"{info.formatted_name}-{str(dtype).removeprefix('torch.')}")
    for info in module_db
    for dtype in DTYPES
    if dtype in info.dtypes or dtype in (torch.float32, torch.float64)
]


def _run(module: torch.nn.Module, call, device: str):
    """Results, gradients and buffers of one forward and backward."""
    module = copy.deepcopy(module).to(device)
    args, kwargs = Mover(device)(call)
    torch.manual_seed(3)
    result = module(*args, **kwargs)
    roots = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
    roots = [x for x in roots if x.requires_grad]
    wanted = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    wanted = [x for x in wanted if x.requires_grad] + list(module.parameters())
    grads = []
    if roots and wanted:
        generator = torch.Generator().manual_seed(5)
        seeds = [torch.randn(x.shape, generator=generator).to(x.dtype).to(device) for x in roots]
        grads = list(torch.autograd.grad(roots, wanted, seeds, allow_unused=True))
    torch.accel.synchronize()
    return result, grads, list(module.buffers())


def _attempt(function):
    try:
        return function(), None
    except Exception as error:
        return None, error


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("info", "dtype"), CASES)
def test_module(info, dtype, training):
    torch.manual_seed(0)
    inputs = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    for number, entry in enumerate(inputs):
        if entry.forward_input is None:
            continue
        given = entry.constructor_input
        call = (entry.forward_input.args, entry.forward_input.kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = info.module_cls(*given.args, **given.kwargs).train(training)
            module = module.to(dtype)
            if info.is_lazy:
                with torch.no_grad():
                    module(*Mover("cpu")(call)[0])
            expected, refused = _attempt(lambda m=module, c=call: _run(m, c, "cpu"))
            got, error = _attempt(lambda m=module, c=call: _run(m, c, "accel"))
            if refused is not None:
                assert type(error) is type(refused) or error is None
                continue
            if error is not None:
                raise error
            text = difference(expected, got, looseness=4)
            if text is not None and _is_random(module, call, expected):
                text = None
        assert text is None, f"input {number}: {text}"


def _is_random(module, call, expected) -> bool:
    seed = torch.manual_seed
    try:
        for offset in range(1, 9):
            torch.manual_seed = lambda given, offset=offset: seed(given + 7919 * offset)
            if difference(expected, _run(module, call, "cpu"), looseness=4) is not None:
                return True
    finally:
        torch.manual_seed = seed
    return False


@pytest.mark.parametrize(
    "info",
    [pytest.param(x, id=x.formatted_name) for x in module_db if x.module_error_inputs_func],
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_module_errors(info, training):
    def run(entry, device):
        given, call = (
            entry.module_error_input.constructor_input,
            entry.module_error_input.forward_input,
        )
        args, kwargs = Mover(device)((given.args, given.kwargs))
        module = info.module_cls(*args, **kwargs).to(device).train(training)
        if call is not None:
            args, kwargs = Mover(device)((call.args, call.kwargs))
            module(*args, **kwargs)
        torch.accel.synchronize()

    torch.manual_seed(0)
    for entry in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=training
    ):
        _, refused = _attempt(lambda e=entry: run(e, "cpu"))
        _, error = _attempt(lambda e=entry: run(e, "accel"))
        assert type(error) is type(refused), f"{error!r}, not {refused!r}"
