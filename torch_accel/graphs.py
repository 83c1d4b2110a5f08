"""torch.accel: graphs that are captured from eager code and replayed, by torch.cuda's names."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.accelerator import Graph
from torch.utils._pytree import tree_flatten, tree_unflatten

from torch_accel import _C
from torch_accel.device import current_device
from torch_accel.streams import Stream, StreamContext

__all__ = [
    "Graph",
    "graph",
    "graph_pool_handle",
    "is_current_stream_capturing",
    "make_graphed_callables",
]

_pools = itertools.count(1 << 32)


@functools.cache
def _capture_stream(device: int) -> Stream:
    """One for all captures: autograd runs a backward on the stream of its forward."""
    return Stream(device)


def is_current_stream_capturing() -> bool:
    """Whether the ops of the current stream are being captured instead of run."""
    return _C.is_current_stream_capturing()


def graph_pool_handle() -> tuple[int, int]:
    """A token that says which graphs may share memory. All do here: a replay takes the memory for
    its temporaries from the caching allocator and gives it back."""
    return (0, next(_pools))


class graph:  # noqa: N801 - the name that torch.cuda has
    """Captures what is done in the `with` block into `captured`, on a stream of its own.

        captured = torch.accel.Graph()
        with torch.accel.graph(captured):
            y = model(x)
        x.copy_(batch)
        captured.replay()      # y holds model(batch)

    Nothing runs during the capture. The tensors that the block reads must stay where they are, and
    what it makes is filled by each replay. Needing a value on the host raises RuntimeError, as do
    random numbers that do not come from the device's own generator.

    pool and capture_error_mode are accepted for torch.cuda's sake; stream is the stream to capture.
    """

    def __init__(
        self,
        captured: Graph,
        pool: tuple[int, int] | None = None,
        stream: torch.Stream | None = None,
        capture_error_mode: str = "default",
    ):
        self._graph = captured
        self._graph.graph_pool = pool
        self._graph.capture_error_mode = capture_error_mode
        self._stream = StreamContext(stream or _capture_stream(current_device()))

    def __enter__(self) -> None:
        torch.accelerator.synchronize()
        self._stream.__enter__()
        self._graph.capture_begin()

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None:
                self._graph.capture_end()
            else:
                self._graph.reset()
        finally:
            self._stream.__exit__(kind, value, traceback)


def make_graphed_callables(
    callables: Callable | Sequence[Callable],
    sample_args: tuple | Sequence[tuple],
    num_warmup_iters: int = 3,
    allow_unused_input: bool = False,
    pool: tuple[int, int] | None = None,
) -> Callable | tuple[Callable, ...]:
    """Callables that replay a captured forward, and a captured backward, of the given ones.

    callables: one function or nn.Module, or several that are used in this order. sample_args: the
    positional arguments of one call (a tuple for each of several), tensors in any nesting; later
    calls need the same shapes, dtypes, strides and the same requires_grad. A module is returned
    itself, with its forward replaced; in the other mode of train() and eval() than it was captured
    in, it runs as before.

    Raises RuntimeError where a call needs a value on the host, and for a module with hooks or with
    buffers that require gradients; ValueError for arguments that differ from the sample.
    """
    if not isinstance(callables, (tuple, list)):
        return _graphed(callables, sample_args, num_warmup_iters, allow_unused_input, pool)
    if len(callables) != len(sample_args):
        raise ValueError(f"{len(callables)} callables but {len(sample_args)} sets of arguments")
    return tuple(
        _graphed(one, arguments, num_warmup_iters, allow_unused_input, pool)
        for one, arguments in zip(callables, sample_args, strict=True)
    )


def _graphed(
    function: Callable,
    sample_args: tuple,
    warmups: int,
    allow_unused: bool,
    pool: tuple[int, int] | None,
) -> Callable:
    if not isinstance(function, torch.nn.Module):
        return _Replayed(function, (), sample_args, warmups, allow_unused, pool)
    module = function
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        raise RuntimeError("modules with hooks cannot be graphed: register them afterwards")
    if any(buffer.requires_grad for buffer in module.buffers()):
        raise RuntimeError("modules whose buffers require gradients cannot be graphed")
    eager, training = module.forward, module.training
    parameters = tuple(module.parameters())
    replayed = _Replayed(eager, parameters, sample_args, warmups, allow_unused, pool)

    def forward(*arguments: Any) -> Any:
        return (replayed if module.training == training else eager)(*arguments)

    module.forward = forward
    return module


class _Replayed:
    """One function, captured. Inputs, outputs and their gradients have fixed places in memory."""

    def __init__(
        self,
        function: Callable,
        parameters: tuple[torch.Tensor, ...],
        sample_args: tuple,
        warmups: int,
        allow_unused: bool,
        pool: tuple[int, int] | None,
    ):
        if torch.is_autocast_enabled("accel") and torch.is_autocast_cache_enabled():
            raise RuntimeError(
                "make_graphed_callables does not support autocast with its cache: "
                "pass cache_enabled=False"
            )
        sample, self._structure = tree_flatten(sample_args)
        if not all(isinstance(tensor, torch.Tensor) for tensor in sample):
            raise ValueError("sample_args must be tensors, in tuples, lists and dicts")
        self._inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in sample]
        self._parameters = parameters
        self._wanted = [i for i, x in enumerate((*self._inputs, *parameters)) if x.requires_grad]
        self._allow_unused = allow_unused
        arguments = tree_unflatten(self._inputs, self._structure)
        with StreamContext(_capture_stream(current_device())):
            for _ in range(warmups):
                outputs, _ = tree_flatten(function(*arguments))
                self._gradients(outputs, [torch.zeros_like(x) for x in outputs])
            torch.accelerator.synchronize()
        self._forward_graph, self._backward_graph = Graph(), Graph()
        with graph(self._forward_graph, pool):
            outputs, self._output_structure = tree_flatten(function(*arguments))
        self.fixed_outputs = [not x.requires_grad for x in outputs]  # cannot be differentiated
        self._output_gradients = [torch.zeros_like(x) for x in outputs]
        with graph(self._backward_graph, pool):
            self._input_gradients = self._gradients(outputs, self._output_gradients)
        self._outputs = [x.detach() for x in outputs]
        self._function = _replay_function(self)

    def _gradients(self, outputs: list, gradients: list) -> list[torch.Tensor | None]:
        tensors = (*self._inputs, *self._parameters)
        used = [(x, g) for x, g in zip(outputs, gradients, strict=True) if x.requires_grad]
        result: list[torch.Tensor | None] = [None] * len(tensors)
        if used and self._wanted:
            wanted = torch.autograd.grad(
                [x for x, _ in used],
                [tensors[i] for i in self._wanted],
                [g for _, g in used],
                allow_unused=self._allow_unused,
            )
            for i, gradient in zip(self._wanted, wanted, strict=True):
                result[i] = None if gradient is None else gradient.detach()
        return result

    def __call__(self, *arguments: Any) -> Any:
        flat, structure = tree_flatten(arguments)
        if structure != self._structure:
            raise ValueError("the arguments are not nested as those of the capture were")
        for given, static in zip(flat, self._inputs, strict=True):
            if given.shape != static.shape or given.dtype != static.dtype:
                raise ValueError(
                    f"the graph was captured for {static.dtype} of shape {tuple(static.shape)}, "
                    f"got {given.dtype} of shape {tuple(given.shape)}"
                )
        outputs = self._function.apply(*flat, *self._parameters)
        return tree_unflatten(list(outputs), self._output_structure)

    def replay_forward(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        for static, given in zip(self._inputs, inputs, strict=True):
            if static.data_ptr() != given.data_ptr():
                static.copy_(given)
        self._forward_graph.replay()
        return tuple(x.detach() for x in self._outputs)

    def replay_backward(self, gradients: Sequence[torch.Tensor | None]) -> tuple:
        for static, given in zip(self._output_gradients, gradients, strict=True):
            if given is None:
                static.zero_()
            elif static.data_ptr() != given.data_ptr():
                static.copy_(given)
        self._backward_graph.replay()
        # The very tensors: a parameter without a gradient takes over what nobody else holds, and
        # the next replay would change it.
        return tuple(self._input_gradients)


def _replay_function(replayed: _Replayed) -> type[torch.autograd.Function]:
    inputs = len(replayed._inputs)

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(context, *tensors):
            outputs = replayed.replay_forward(tensors[:inputs])
            context.mark_non_differentiable(
                *(x for x, fixed in zip(outputs, replayed.fixed_outputs, strict=True) if fixed)
            )
            return outputs

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(context, *gradients):
            return replayed.replay_backward(gradients)

    return Replay
