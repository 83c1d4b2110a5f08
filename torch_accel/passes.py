"""Rewrites of AOTAutograd's graphs before they are captured. Called by torch_accel/compile.py."""

from collections.abc import Callable, Iterable

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_leaves

_aten = torch.ops.aten

# ---- sums of slices ----


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


# ---- equal values ----


def share_equal_values(graph: fx.GraphModule) -> None:
    """What the program computes twice from the same values, as every layer its mask, is computed
    once."""
    returned = _origins(graph.graph.output_node().all_input_nodes)
    seen: dict[tuple, fx.Node] = {}
    changed = False
    for node in graph.graph.nodes:
        if _is_write(node):
            seen.clear()
        # A value that is returned stays a tensor of its own.
        if not _is_pure(node) or node in returned:
            continue
        leaves, form = tree_flatten((node.args, node.kwargs))
        # As text, numbers that are equal and not the same (1 and 1.0, 0.0 and -0.0) differ.
        key = (node.target, form, *(x if isinstance(x, fx.Node) else repr(x) for x in leaves))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)
            changed = True
    if changed:
        graph.recompile()


def _is_write(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _is_pure(node: fx.Node) -> bool:
    return (
        isinstance(node.target, torch._ops.OpOverload)
        and not _is_write(node)
        and torch.Tag.nondeterministic_seeded not in node.target.tags
    )


# ---- writes in place ----

# Ops that are a copy of their first argument and a write to a part of it, with what they are in
# place. (Where an op writes everything, fusion finds out by itself that nobody needs the copy.)
_WRITES = {
    getattr(getattr(_aten, name), overload): getattr(getattr(_aten, name + "_"), overload)
    for name, overloads in {
        "index_add": ("default",),
        "index_copy": ("default",),
        "index_fill": ("int_Scalar", "int_Tensor"),
        "index_put": ("default",),
        "index_reduce": ("default",),
        "masked_scatter": ("default",),
        "put": ("default",),
        "scatter": ("src", "value", "reduce", "value_reduce"),
        "scatter_add": ("default",),
        "scatter_reduce": ("two",),
    }.items()
    for overload in overloads
}
# The same of a view: the view's op, and that the new values come second.
_VIEW_WRITES = {
    _aten.diagonal_scatter.default: _aten.diagonal.default,
    _aten.select_scatter.default: _aten.select.int,
    _aten.slice_scatter.default: _aten.slice.Tensor,
}
# What makes memory of its own that no one else has.
_FRESH = {
    _aten.clone.default,
    _aten.full.default,
    _aten.full_like.default,
    _aten.new_full.default,
    _aten.new_zeros.default,
    _aten.zeros.default,
    _aten.zeros_like.default,
}


def write_in_place(graph: fx.GraphModule) -> None:
    """AOTAutograd's graphs are functional: they write to a copy of a tensor, and in the end copy
    that to the input that the program wrote to. Where nobody reads the old values any more, the
    write goes to the tensor itself, so that a step of decoding does not copy its caches."""
    nodes = list(graph.graph.nodes)
    order = {node: i for i, node in enumerate(nodes)}
    output = nodes[-1]
    copied_back = {
        node.args[0]: node
        for node in nodes
        if node.target is _aten.copy_.default and node.args[0].op == "placeholder"
    }
    # For each tensor that is written in place: whose memory it is.
    homes = {
        node: node
        for node in nodes
        if (node in copied_back or node.target in _FRESH) and node.meta["val"].is_accel
    }
    changed = False
    for node in nodes:
        if node.target not in _WRITES and node.target not in _VIEW_WRITES:
            continue
        home = homes.get(node.args[0])
        if home is None:
            continue
        sharing = _sharing_memory(item for item, at in homes.items() if at is home)
        operands = tree_leaves((_values(node), node.args[2:], node.kwargs))
        end = copied_back.get(home)
        if sharing.intersection(operands) or any(
            order[user] > order[node] and user is not end for item in sharing for user in item.users
        ):
            continue
        if end is not None:
            # An input's memory neither leaves the graph as a result nor is copied onto itself.
            views = _sharing_memory([node])
            if end.args[1] in views - {node} or any(output in item.users for item in views):
                continue
        homes[node] = home
        for new in _write(graph.graph, node):
            order[new] = order[node]
        changed = True
    for home, copy in copied_back.items():
        if homes.get(copy.args[1]) is home and copy.args[1] is not home:
            copy.replace_all_uses_with(home)
            graph.graph.erase_node(copy)
    if changed:
        graph.recompile()


def _values(node: fx.Node) -> fx.node.Argument:
    """What is written. `x[1:3] = y` copies y to the form of the slice first, which writing does."""
    values = node.args[1]
    if (
        node.target in _VIEW_WRITES
        and values.target is _aten.copy.default
        and len(values.users) == 1
    ):
        return values.args[1]
    return values


def _write(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """Makes a functional write one in place; its users go on reading the node. Returns the nodes
    that this took."""
    if node.target in _WRITES:
        node.target = _WRITES[node.target]
        return []
    target, copied, *place = node.args
    with graph.inserting_before(node):
        view = graph.call_function(_VIEW_WRITES[node.target], (target, *place), node.kwargs)
        copy = graph.call_function(_aten.copy_.default, (view, _values(node)))
    node.target, node.args, node.kwargs = _aten.alias.default, (target,), {}
    if not copied.users:
        graph.erase_node(copied)
    return [view, copy]


# ---- views ----


def reshape_views(graph: fx.GraphModule) -> None:
    """Some ops lay out their results otherwise than PyTorch traces them, on every device
    (softplus_backward of a transposed gradient). Where the layout allows no view of such a result,
    its elements are copied, as they are where inductor runs the graph."""
    views = (_aten.view.default, _aten._unsafe_view.default)
    changed = False
    for node in graph.graph.nodes:
        if node.target in views:
            node.target = _aten.reshape.default
            changed = True
    if changed:
        graph.recompile()


def _may_be_view(node: fx.Node) -> bool:
    if node.op == "output":
        return False
    schema = getattr(node.target, "_schema", None)
    if schema is None or node.target is _aten._unsafe_view.default:
        return True
    return any(argument.alias_info is not None for argument in schema.arguments)


def _origins(values: Iterable[fx.Node]) -> set[fx.Node]:
    """These and whatever one of them may be a view of."""
    return _reached(values, lambda node: node.all_input_nodes if _may_be_view(node) else [])


def _sharing_memory(tensors: Iterable[fx.Node]) -> set[fx.Node]:
    """These and whatever may be a view of one of them."""
    return _reached(tensors, lambda node: filter(_may_be_view, node.users))


def _reached(start: Iterable[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set:
    found = set()
    pending = list(start)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += step(node)
    return found
