"""Pictures of planned graphs for torch_accel.compile.draw(): a table in text, and an SVG with the
data that goes from Launch to Launch."""

from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

Launches = list[dict[str, Any]]


@dataclass
class Graph:
    """What a compiled graph became: its role ("forward", "backward") and its Launches."""

    role: str
    launches: Launches


# Pixels: the pitch of rows, a Launch's box and where it begins, and the pitch of the wires.
_ROW, _HEIGHT, _LEFT, _LANE = 40, 30, 40, 66
_GLYPH = 7.6  # width of a letter of a chip's font
_COLOURS = {
    "product": "#f5b183",
    "attention": "#c9a5e6",
    "row": "#9ed6a8",
    "sum": "#8fd0d6",
    "memory": "#d5d9df",
    "pointwise": "#a9c8f5",
}


def table(graphs: list[Graph]) -> str:
    lines = []
    for number, graph in enumerate(graphs):
        lines.append(_title(number, graph))
        for index, launch in enumerate(graph.launches):
            reads, writes = _bytes(launch["reads"]), _bytes(launch["writes"])
            lines.append(
                f"{index:5}  reads {_quantity(reads):>6}B  writes {_quantity(writes):>6}B  "
                f"{_quantity(launch['flops']):>6}FLOP  {launch['name']}"
            )
    return "\n".join(lines)


def svg(graphs: list[Graph]) -> str:
    """A row a Launch, in the order in which they run, with a chip for each op in it and a bar for
    the bytes it moves. A wire is a value: from the Launch that writes it down to those that read
    it, for as long as its memory is needed."""
    names = [launch["name"] for graph in graphs for launch in graph.launches]
    inner = max((_chips_width(name) for name in names), default=80) + 250
    right = _LEFT + inner
    parts: list[str] = []
    top, lanes = 24, 0
    for number, graph in enumerate(graphs):
        parts.append(f'<text x="{_LEFT}" y="{top}" class="title">{_title(number, graph)}</text>')
        top += 14
        wires = _wires(graph.launches)
        lanes = max([lanes, *(wire.lane + 1 for wire in wires)])
        parts += [_wire(wire, top, right) for wire in wires]
        most = max((_moved(launch) for launch in graph.launches), default=1)
        for index, launch in enumerate(graph.launches):
            share = _moved(launch) / max(most, 1)
            parts.append(_box(index, launch, top + index * _ROW, inner, share))
        top += len(graph.launches) * _ROW + 36
    style = (
        "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1c2733}"
        ".title{font-weight:bold;font-size:13px}.index{text-anchor:end;fill:#9aa4b0}"
        ".figures{text-anchor:end;fill:#5a6673;font-size:11px}.size{font-size:10px;fill:#3a6ea5}"
        ".box{fill:#fff;stroke:#c3ccd6}.bar{fill:#eaf0f7}.chip{stroke:#000;stroke-opacity:.15}"
        ".wire{fill:none;stroke:#3a6ea5;stroke-opacity:.6}.end{fill:#3a6ea5}"
    )
    width, height = right + lanes * _LANE + 30, top
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}"><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _title(number: int, graph: Graph) -> str:
    launches = graph.launches
    ops = sum(len(launch["name"].split("+")) for launch in launches)
    flops = sum(launch["flops"] for launch in launches)
    return (
        f"graph {number}, {graph.role}: {ops} ops in {len(launches)} launches, "
        f"{_quantity(sum(map(_moved, launches)))}B moved, {_quantity(flops)}FLOP"
    )


def _box(index: int, launch: dict[str, Any], y: float, width: float, share: float) -> str:
    flops = f"{_quantity(launch['flops'])}FLOP, " if launch["flops"] else ""
    reads, writes = _quantity(_bytes(launch["reads"])), _quantity(_bytes(launch["writes"]))
    middle = y + _HEIGHT / 2
    parts = [
        f'<text x="{_LEFT - 8}" y="{middle + 4}" class="index">{index}</text>',
        f'<rect class="bar" x="{_LEFT}" y="{y}" width="{share * width:.0f}" height="{_HEIGHT}"/>',
        f'<rect class="box" x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_HEIGHT}" rx="4" '
        f'fill-opacity="0"/>',
    ]
    x = float(_LEFT + 6)
    for name, chip in _chips(launch["name"]):
        parts.append(
            f'<rect class="chip" x="{x:.0f}" y="{y + 5}" width="{chip:.0f}" '
            f'height="{_HEIGHT - 10}" rx="3" fill="{_COLOURS[_kind(name)]}"/>'
            f'<text x="{x + 6:.0f}" y="{middle + 4}">{escape(name)}</text>'
        )
        x += chip + 2
    parts.append(
        f'<text x="{_LEFT + width - 8:.0f}" y="{middle + 4}" class="figures">'
        f"{flops}{reads}B in, {writes}B out</text>"
    )
    return "".join(parts)


def _chips(name: str) -> list[tuple[str, float]]:
    """The ops of a Launch, repeated ones once, and the widths of their chips."""
    counted = [(op, len(list(same))) for op, same in groupby(name.split("+"))]
    texts = [op if count == 1 else f"{op} ×{count}" for op, count in counted]
    return [(text, len(text) * _GLYPH + 12) for text in texts]


def _chips_width(name: str) -> float:
    return sum(width + 2 for _, width in _chips(name)) + 12


def _kind(op: str) -> str:
    op = op.partition(" ")[0]
    if op.startswith("Attention"):
        return "attention"
    if op.startswith(("Matmul", "Convolution")):
        return "product"
    if "Norm" in op or "Softmax" in op or "NllLoss" in op:
        return "row"
    if op.startswith("Reduce"):
        return "sum"
    if op in ("Copy", "Fill", "Host") or "Index" in op or "Embedding" in op:
        return "memory"
    return "pointwise"


@dataclass
class _Value:
    """A Buffer's content between the Launch that writes it and the last that reads it."""

    writer: int
    bytes: int
    readers: list[int]
    lane: int = 0


def _wires(launches: Launches) -> list[_Value]:
    current: dict[int, _Value] = {}
    values: list[_Value] = []
    for index, launch in enumerate(launches):
        for buffer, size in launch["reads"]:
            value = current.get(buffer)
            if value and value.writer != index and index not in value.readers:
                value.readers.append(index)
                value.bytes = max(value.bytes, size)
        for buffer, _ in launch["writes"]:
            if buffer not in current or current[buffer].writer != index:
                current[buffer] = _Value(index, 0, [])
                values.append(current[buffer])
    values = [value for value in values if value.readers]
    # Each in the first lane that is free from its writer on.
    ends: list[int] = []
    for value in values:
        value.lane = next((i for i, end in enumerate(ends) if end <= value.writer), len(ends))
        ends[value.lane : value.lane + 1] = [value.readers[-1]]
    return values


def _wire(value: _Value, top: float, right: float) -> str:
    x = right + 24 + value.lane * _LANE
    start = top + value.writer * _ROW + _HEIGHT - 8
    ends = [top + reader * _ROW + 8 for reader in value.readers]
    width = min(max(len(str(value.bytes)) / 3, 1), 3)
    path = f"M{right:.0f} {start}H{x - 6:.0f}Q{x:.0f} {start} {x:.0f} {start + 6}V{ends[-1]}"
    taps = "".join(f"M{x:.0f} {y}H{right + 6:.0f}" for y in ends)
    arrows = "".join(f'<path class="end" d="M{right + 1:.0f} {y}l7 -3.5v7z"/>' for y in ends)
    return (
        f'<path class="wire" d="{path}{taps}" stroke-width="{width:.1f}"/>{arrows}'
        f'<text x="{x + 4:.0f}" y="{start + 11}" class="size">{_quantity(value.bytes)}B</text>'
    )


def _moved(launch: dict[str, Any]) -> int:
    return _bytes(launch["reads"]) + _bytes(launch["writes"])


def _bytes(touched: list[tuple[int, int]]) -> int:
    return sum(size for _, size in touched)


def _quantity(value: float) -> str:
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} T"
