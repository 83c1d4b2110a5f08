"""torch.compile(model, backend="accel").

TorchDynamo and AOTAutograd make graphs of ATen ops; a graph is captured by recording its ops once,
and from then on it is one call: no Python and no dispatcher an op. A graph for symbolic sizes is
captured anew for each set of sizes, which costs what recording it once costs; nothing is compiled.

What cannot be captured, because it needs a value on the host or makes random numbers there, runs
op by op as it would without torch.compile, and is counted in `torch.accel.report()`. Numbers on the
CPU (an optimizer's count of steps) are no such thing: they are computed first (host_part.py).
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._C import DispatchKey
from torch._dynamo.backends.common import aot_autograd
from torch._functorch._aot_autograd.utils import register_graphsafe_rng_device_type
from torch._functorch.partitioners import default_partition, min_cut_rematerialization_partition
from torch._guards import TracingContext
from torch.utils._pytree import tree_leaves

from torch_accel import _C, drawing, host_part, passes

_PARTITIONERS = {"default": default_partition, "min_cut": min_cut_rematerialization_partition}
_OPTIONS: dict[str, Any] = {"partitioner": "min_cut", "captures": 64}
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
# A graph that could not be captured so often (an op's first run waits for its errors) never will.
_MOST_FAILURES = 3

# Recomputed dropout draws the numbers of its forward.
register_graphsafe_rng_device_type("accel")

# Captures of all threads take turns: there is one stream for them on a device.
_capturing = threading.RLock()


def backend(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """The backend that torch.compile calls with each graph that TorchDynamo found.

    mode: "default" and "reduce-overhead" are the same here, since graphs are replayed anyway; the
    "max-autotune" modes have nothing to tune and warn.

    options: "partitioner" divides a training graph into forward and backward: "min_cut" (recompute
    in backward what is cheap, keep little) or "default" (keep what autograd keeps). "captures" is
    how many sets of sizes of one graph are kept captured (64).

    Raises ValueError for other modes, and for unknown options or values.
    """
    return _compile(graph, example_inputs, _check(mode, options), [])


def draw(function: Callable, *args: Any, path: str | None = None, **kwargs: Any) -> str:
    """Compiles the function, calls it with the arguments (and, where the results require
    gradients, their backward), and tells what became one kernel: a table in text, which is
    returned, and an SVG picture where `path` names a file.

    Each row is a Launch: the ops in it, the bytes it reads and writes at most, and the floating
    point operations of products, convolutions and attention.
    """
    made: list[CompiledGraph] = []

    def drawn(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return _compile(graph, inputs, _OPTIONS, made)

    results = torch.compile(function, backend=drawn)(*args, **kwargs)
    leaves = [x for x in tree_leaves(results) if isinstance(x, torch.Tensor) and x.requires_grad]
    if leaves:
        torch.autograd.backward(leaves, [torch.ones_like(x) for x in leaves])
    graphs = [
        drawing.Graph(compiled.role, launches)
        for compiled in made
        for launches in compiled.launches()
    ]
    if path is not None:
        Path(path).write_text(drawing.svg(graphs))
    return drawing.table(graphs)


def _compile(
    graph: torch.fx.GraphModule,
    example_inputs: Sequence[Any],
    settings: dict[str, Any],
    made: list["CompiledGraph"],
) -> Callable[..., Any]:
    """What backend() says. made: takes what the graphs become."""

    def compile_graph(
        graph: torch.fx.GraphModule, _: Sequence[Any], role: str
    ) -> Callable[[list], Any]:
        passes.stack_selects(graph)
        passes.share_equal_values(graph)
        passes.write_in_place(graph)
        passes.reshape_views(graph)
        parts = host_part.split(graph)
        device_graph = parts.device_graph if parts else graph
        compiled = CompiledGraph(device_graph, settings["captures"], role)
        made.append(compiled)

        def call(arguments: list) -> Sequence[Any]:
            return parts(arguments, compiled) if parts else compiled(arguments)

        call._boxed_call = True  # takes one list; AOTAutograd looks for this on functions
        return call

    def compile_backward(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable:
        # What may be overwritten is found out at each call, so retain_graph=True is no error here.
        context = TracingContext.try_get()
        if context is not None and context.fw_metadata is not None:
            context.fw_metadata.bw_donated_idxs = []
        return compile_graph(graph, inputs, role="backward")

    compiler = aot_autograd(
        fw_compiler=partial(compile_graph, role="forward"),
        bw_compiler=compile_backward,
        inference_compiler=partial(compile_graph, role="inference"),
        partition_fn=_PARTITIONERS[settings["partitioner"]],
        keep_inference_input_mutations=True,
    )
    with _whole_ops():
        return compiler(graph, example_inputs)


# While PyTorch traces, these are made of indexing and arithmetic on every device; the device has
# kernels of its own for them and for their backward.
_WHOLE = ("multi_margin_loss", "_upsample_nearest_exact", "upsample_")


@contextmanager
def _whole_ops() -> Iterator[None]:
    """Inside, TorchDynamo's graphs are traced with the ops above as they are. Compilations take
    turns (TorchDynamo holds a lock), so nobody else sees this."""
    keys = (DispatchKey.Autograd, DispatchKey.CompositeImplicitAutograd)
    removed = []
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        if not name.startswith(_WHOLE) or not isinstance(packet, torch._ops.OpOverloadPacket):
            continue
        for overload in packet.overloads():
            op = getattr(packet, overload)
            rules = {key: op.py_kernels.pop(key) for key in keys if key in op.py_kernels}
            op._dispatch_cache.clear()
            removed.append((op, rules))
    try:
        yield
    finally:
        for op, rules in removed:
            op.py_kernels.update(rules)
            op._dispatch_cache.clear()


def _check(mode: str | None, options: dict[str, Any] | None) -> dict[str, Any]:
    if mode is not None and mode not in _MODES:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(_MODES)}")
    if mode is not None and mode.startswith("max-autotune"):
        warnings.warn(f"mode {mode!r} has nothing to tune on accel", stacklevel=3)
    for name in options or {}:
        if name not in _OPTIONS:
            raise ValueError(f"option {name!r} is not one of {', '.join(_OPTIONS)}")
    settings = _OPTIONS | (options or {})
    if settings["partitioner"] not in _PARTITIONERS:
        raise ValueError(
            f"partitioner {settings['partitioner']!r} is not one of {', '.join(_PARTITIONERS)}"
        )
    if not isinstance(settings["captures"], int) or settings["captures"] < 1:
        raise ValueError(f"captures must be a positive integer, got {settings['captures']!r}")
    return settings


class CompiledGraph:
    """One graph of AOTAutograd. Called with a list of arguments, which it empties."""

    def __init__(self, graph: torch.fx.GraphModule, captures: int, role: str):
        self.role = role
        self._graph = graph
        self._calls = _C.CapturedCalls(captures)
        self._device, self._reason = _device_of(graph)
        self._failures = 0

    def __call__(self, arguments: list) -> Sequence[Any]:
        # In the capture of a larger graph, this one is a part of that.
        if self._device is None or _C.is_current_stream_capturing():
            return self._run(arguments)
        results = self._calls.run(arguments)
        if results is None:
            if self._failures >= _MOST_FAILURES or not self._capture(arguments):
                return self._run(arguments)
            results = self._calls.run(arguments)
        return results

    def launches(self) -> list[list[dict[str, Any]]]:
        """Of each set of sizes that is captured, what its Launches are."""
        return self._calls.launches()

    def _run(self, arguments: list) -> Sequence[Any]:
        """Op by op, as recorded without torch.compile."""
        if self._reason:
            _C.count_op("not_captured", self._reason)
        inputs = list(arguments)
        arguments.clear()
        with torch.no_grad():
            return self._graph(*inputs)

    def _capture(self, arguments: list) -> bool:
        with _capturing:
            capture = _C.Capture(self._device.index)
            try:
                with torch.no_grad():
                    results = self._graph(*arguments)
                self._calls.add(capture, arguments, list(results))
            except Exception as error:  # whatever an op raises: run by itself, it says so again
                self._failures += 1
                self._reason = str(error).partition("\n")[0]
                return False
            finally:
                capture.end()
        self._reason = ""
        return True


def _device_of(graph: torch.fx.GraphModule) -> tuple[torch.device | None, str]:
    """The device of a graph all of whose tensors are on one accel device; else None and why."""
    devices = set()
    for node in graph.graph.nodes:
        for tensor in tree_leaves(node.meta.get("val")):
            if isinstance(tensor, torch.Tensor):
                devices.add(tensor.device)
    accel = [device for device in devices if device.type == "accel"]
    if len(devices) == len(accel) == 1:
        return accel[0], ""
    names = ", ".join(sorted(str(device) for device in devices))
    return None, f"tensors on {names}" if accel else ""
