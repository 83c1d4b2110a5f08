"""Pictures of planned graphs for torch_accel.compile.draw(): a table in text, and an SVG with the
data that goes from Launch to Launch."""

from html import escape
from typing import Any

Launches = list[dict[str, Any]]

_ROW, _BOX, _LEFT, _ARROWS = 44, 34, 16, 260


def table(graphs: list[Launches]) -> str:
    lines = []
    for number, launches in enumerate(graphs):
        moved = sum(_bytes(launch["reads"]) + _bytes(launch["writes"]) for launch in launches)
        flops = sum(launch["flops"] for launch in launches)
        lines.append(
            f"graph {number}: {len(launches)} launches, {_quantity(moved)}B moved, "
            f"{_quantity(flops)}FLOP"
        )
        for index, launch in enumerate(launches):
            reads, writes = _bytes(launch["reads"]), _bytes(launch["writes"])
            lines.append(
                f"{index:5}  reads {_quantity(reads):>6}B  writes {_quantity(writes):>6}B  "
                f"{_quantity(launch['flops']):>6}FLOP  {launch['name']}"
            )
    return "\n".join(lines)


def svg(graphs: list[Launches]) -> str:
    """One box a Launch, in the order in which they run; a line for each value that a later Launch
    reads, as wide as its bytes have digits."""
    boxes: list[str] = []
    lines: list[str] = []
    top = 10
    width = 8 * max((len(launch["name"]) for graph in graphs for launch in graph), default=10) + 220
    for number, launches in enumerate(graphs):
        boxes.append(f'<text x="{_LEFT}" y="{top + 16}" class="title">graph {number}</text>')
        top += 26
        writers: dict[int, int] = {}
        for index, launch in enumerate(launches):
            y = top + index * _ROW
            flops = f"   {_quantity(launch['flops'])}FLOP" if launch["flops"] else ""
            moved = _quantity(_bytes(launch["reads"]) + _bytes(launch["writes"]))
            boxes.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BOX}" rx="6"/>'
                f'<text x="{_LEFT + 10}" y="{y + 21}">{escape(launch["name"])}</text>'
                f'<text x="{_LEFT + width - 10}" y="{y + 21}" class="figures">'
                f"{moved}B{flops}</text>"
            )
            for buffer, size in dict(launch["reads"]).items():
                if buffer in writers and writers[buffer] != index:
                    lines.append(_arrow(top, writers[buffer], index, size, _LEFT + width))
            for buffer, _ in launch["writes"]:
                writers[buffer] = index
        top += len(launches) * _ROW + 10
    style = (
        "text{font:13px monospace;fill:#222}.title{font-weight:bold}.figures{text-anchor:end;"
        "fill:#666}.size{font-size:10px;fill:#3060a0}rect{fill:#eef3fa;stroke:#8aa5c8}"
        "path{fill:none;stroke:#3060a0;stroke-opacity:.45}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + width + _ARROWS}" '
        f'height="{top + 10}"><style>{style}</style>{"".join(lines)}{"".join(boxes)}</svg>\n'
    )


def _arrow(top: int, start: int, end: int, size: int, x: int) -> str:
    y0, y1 = (top + row * _ROW + _BOX // 2 for row in (start, end))
    bend = min(_ARROWS - 60, 20 + 12 * (end - start))
    label = f'<text x="{x + 0.75 * bend + 4:.0f}" y="{(y0 + y1) // 2}" class="size">'
    return (
        f'<path d="M{x} {y0}C{x + bend} {y0} {x + bend} {y1} {x} {y1}" '
        f'stroke-width="{max(len(str(size)) / 3, 1):.1f}"/>{label}{_quantity(size)}B</text>'
    )


def _bytes(touched: list[tuple[int, int]]) -> int:
    return sum(size for _, size in touched)


def _quantity(value: float) -> str:
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} T"
