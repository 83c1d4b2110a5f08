"""Graphs of torch.compile with numbers on the CPU among their tensors, such as an optimizer's count
of steps. What computes on the CPU alone runs first, op by op; what the device needs of it is an
argument of a graph on the device alone, which can be captured. Called by torch_accel/compile.py.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten


class _Side(Enum):
    NUMBER = auto()  # no tensor: in both parts
    HOST = auto()
    DEVICE = auto()


class Split:
    """A graph in two parts. Called as the graph is, with `device_part` in place of the second."""

    def __init__(self, graph: fx.GraphModule, sides: dict[fx.Node, _Side], device: torch.device):
        self._device = device
        *nodes, output = graph.graph.nodes
        host = [node for node in nodes if sides[node] is not _Side.DEVICE]
        crossing = _crossing(nodes, sides)
        numbers = [node for node in crossing if _device_type(node) == "cpu"]
        moved = [node for node in crossing if _device_type(node) != "cpu"]
        # One tensor a dtype goes to the device, however many numbers there are.
        packs: dict[torch.dtype, list[fx.Node]] = {}
        for node in numbers:
            packs.setdefault(node.meta["val"].dtype, []).append(node)
        self._packs = len(packs)

        results = output.args[0]
        self._results = [
            (sides[result], result) if isinstance(result, fx.Node) else (None, result)
            for result in results
        ]
        outputs = {
            side: [result for kind, result in self._results if kind is side] for side in _Side
        }
        self._host = _host_module(graph, host, packs, moved, outputs[_Side.HOST])
        placeholders = [node for node in nodes if node.op == "placeholder"]
        self._kept = [i for i, node in enumerate(placeholders) if sides[node] is not _Side.HOST]
        self.device_graph = _device_module(
            graph,
            [node for node in nodes if sides[node] is not _Side.HOST],
            packs,
            moved,
            outputs[_Side.DEVICE] + outputs[_Side.NUMBER],
        )
        # Where each result comes from: the second part gives the device's before the numbers.
        sources = {
            _Side.HOST: iter(range(len(results))),
            _Side.DEVICE: iter(range(len(results))),
            _Side.NUMBER: iter(range(len(outputs[_Side.DEVICE]), len(results))),
        }
        self._results = [
            (side, next(sources[side]) if side else result) for side, result in self._results
        ]

    def __call__(
        self, arguments: list, device_part: Callable[[list], Sequence[Any]]
    ) -> Sequence[Any]:
        with torch.no_grad():
            crossing, on_host = self._host(*arguments)
        packs = [pack.to(self._device, non_blocking=True) for pack in crossing[: self._packs]]
        kept = [arguments[i] for i in self._kept] + packs + list(crossing[self._packs :])
        arguments.clear()
        on_device = device_part(kept)
        return [
            result if side is None else (on_host if side is _Side.HOST else on_device)[result]
            for side, result in self._results
        ]


def split(graph: fx.GraphModule) -> Split | None:
    """The graph in two parts, or None where it is on one device alone, where something else than
    numbers of the CPU meets tensors of the device, or where the device's values are written to the
    CPU's tensors."""
    sides: dict[fx.Node, _Side] = {}
    devices = set()
    for node in graph.graph.nodes:
        if node.op == "output":
            continue
        sides[node] = _side(node, sides)
        if sides[node] is _Side.DEVICE and any(
            sides[written] is _Side.HOST for written in _written(node)
        ):
            return None
        devices |= {tensor.device for tensor in _tensors(node) if tensor.device.type != "cpu"}
    if len(devices) != 1 or _Side.HOST not in sides.values():
        return None
    for node in _crossing(graph.graph.nodes, sides):
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor) or (value.device.type == "cpu" and value.dim() > 0):
            return None
    return Split(graph, sides, devices.pop())


def _side(node: fx.Node, sides: dict[fx.Node, _Side]) -> _Side:
    inputs = [sides[source] for source in node.all_input_nodes]
    if node.op in ("placeholder", "get_attr"):
        inputs = [
            _Side.HOST if tensor.device.type == "cpu" else _Side.DEVICE for tensor in _tensors(node)
        ]
    if _Side.DEVICE in inputs:
        return _Side.DEVICE
    if _Side.HOST in inputs:
        return _Side.HOST
    tensors = _tensors(node)
    if not tensors:
        return _Side.NUMBER
    return _Side.HOST if tensors[0].device.type == "cpu" else _Side.DEVICE


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    value = node.meta.get("val")
    if value is None and node.op == "get_attr":
        value = node.meta["val"] = _attribute(node)
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _attribute(node: fx.Node) -> Any:
    value = node.graph.owning_module
    for name in node.target.split("."):
        value = getattr(value, name)
    return value


def _device_type(node: fx.Node) -> str:
    return node.meta["val"].device.type


def _crossing(nodes: Sequence[fx.Node], sides: dict[fx.Node, _Side]) -> list[fx.Node]:
    """What the device's part needs of the host's, in the order of the graph."""
    needed = {
        source
        for node in nodes
        if sides.get(node) is _Side.DEVICE
        for source in node.all_input_nodes
        if sides[source] is _Side.HOST
    }
    return [node for node in nodes if node in needed]


def _host_module(
    graph: fx.GraphModule,
    nodes: list[fx.Node],
    packs: dict[torch.dtype, list[fx.Node]],
    moved: list[fx.Node],
    outputs: list[fx.Node],
) -> fx.GraphModule:
    """Takes the graph's arguments; returns (packs and moved tensors, outputs)."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    stacked: list[fx.Node] = []

    def stack() -> None:
        for numbers in packs.values():
            stacked.append(
                part.call_function(_aten.stack.default, ([copies[node] for node in numbers],))
            )

    for node in graph.graph.nodes:
        if node.op == "placeholder":
            copies[node] = part.placeholder(node.name)
    rest = [node for node in nodes if node.op != "placeholder"]
    # Arguments are written at the end of a graph; the device reads what they were before.
    epilogue = next((i for i, node in enumerate(rest) if _written(node)), len(rest))
    for index, node in enumerate(rest):
        if index == epilogue:
            stack()
        copies[node] = part.node_copy(node, copies.__getitem__)
    if epilogue == len(rest):
        stack()
    crossing = stacked + [copies[node] for node in moved]
    part.output((crossing, [copies[node] for node in outputs]))
    part.eliminate_dead_code()
    return fx.GraphModule(graph, part)


def _written(node: fx.Node) -> list[fx.Node]:
    """The arguments that a node writes."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    values = []
    for index, argument in enumerate(node.target._schema.arguments):
        if argument.is_write:
            by_name = node.kwargs.get(argument.name)
            values.append(node.args[index] if index < len(node.args) else by_name)
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, fx.Node)]


def _device_module(
    graph: fx.GraphModule,
    nodes: list[fx.Node],
    packs: dict[torch.dtype, list[fx.Node]],
    moved: list[fx.Node],
    outputs: list[fx.Node],
) -> fx.GraphModule:
    """Takes the arguments that are not on the CPU, the packs and the moved tensors."""
    part = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node.op == "placeholder":
            copies[node] = part.node_copy(node)
    all_packs = [part.placeholder(f"pack_{index}") for index in range(len(packs))]
    for node in moved:
        copies[node] = part.placeholder(f"moved_{node.name}")
    for pack, numbers in zip(all_packs, packs.values(), strict=True):
        for index, node in enumerate(numbers):
            copies[node] = part.call_function(_aten.select.int, (pack, 0, index))
    for node in nodes:
        if node.op != "placeholder":
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output([copies[node] for node in outputs])
    part.eliminate_dead_code()
    return fx.GraphModule(graph, part)
