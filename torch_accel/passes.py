"""Rewrites of AOTAutograd's graphs before they are captured. Called by torch_accel/compile.py."""

import torch
from torch import fx

_aten = torch.ops.aten


def stack_selects(graph: fx.GraphModule) -> None:
    """`q, k, v = x` is three selects to TorchDynamo, and backward a sum of three tensors that are
    zero but for one slice. Where the slices are all there are, that is their stack."""
    changed = False
    for node in reversed(graph.graph.nodes):
        if node.target is not _aten.add.Tensor or any(map(_is_sum, node.users)):
            continue
        parts = _terms(node)
        if parts is None:
            continue
        gradients, dim = parts
        with graph.graph.inserting_before(node):
            stacked = graph.graph.call_function(_aten.stack.default, (gradients, dim))
        stacked.meta = dict(node.meta)
        node.replace_all_uses_with(stacked)
        changed = True
    if changed:
        graph.graph.eliminate_dead_code()
        graph.recompile()


def _is_sum(node: fx.Node) -> bool:
    return node.target is _aten.add.Tensor and len(node.args) == 2 and not node.kwargs


def _terms(root: fx.Node) -> tuple[list[fx.Node], int] | None:
    """The gradients of all slices in order, and their dimension, if `root` is their sum."""
    found: dict[int, fx.Node] = {}
    places = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if not isinstance(node, fx.Node) or (node is not root and len(node.users) != 1):
            return None
        if _is_sum(node):
            pending += node.args
            continue
        if node.target is not _aten.select_backward.default:
            return None
        gradient, sizes, dim, index = node.args
        dim %= len(sizes)
        if not isinstance(sizes[dim], int) or index % sizes[dim] in found:
            return None
        found[index % sizes[dim]] = gradient
        places.add((tuple(sizes), dim))
    if len(places) != 1:
        return None
    sizes, dim = places.pop()
    if len(found) != sizes[dim]:
        return None
    return [found[index] for index in range(len(found))], dim
