"""Plots as SVG: bars of the peers, one group for each workload, with the lowest and the highest sample."""

from html import escape

from suite.workloads import LABELS, UNITS

from results.rows import number, peer_name

WIDTH, LABEL, BAR, GAP, HEAD = 860, 230, 16, 6, 26
COLOURS = {
    "podbridge": "#1b7837",
    "null": "#bbbbbb",
    "tls": "#bbbbbb",
    "mitogen-ssh": "#7b3294",
    "mitogen-kubectl": "#a581ba",
    "ssh": "#2166ac",
    "rsync": "#2166ac",
    "git-ssh": "#2166ac",
}
OTHER = "#d6604d"


def plot(results, workloads):
    """Returns the SVG of these workloads; empty if none has a figure."""
    groups = [(name, [row for row in results.of(name) if row["n"]]) for name in workloads]
    groups = [(name, rows) for name, rows in groups if rows]
    if not groups:
        return ""
    parts, y = [], GAP
    for name, rows in groups:
        title = escape(f"{LABELS[name].replace('`', '')} ({UNITS[name]})")
        parts.append(f'<text x="{LABEL}" y="{y + 16}" font-weight="bold">{title}</text>')
        y += HEAD
        scale = (WIDTH - LABEL - 90) / max(max(row["high"] for row in rows), 1e-9)
        for row in rows:
            parts += bar(row, y, scale)
            y += BAR + GAP
        y += GAP
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} style="font-family: sans-serif; font-size: 12px">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>\n{body}\n</svg>\n'
    )


def bar(row, y, scale):
    """Returns the elements of one bar."""
    middle, end = y + BAR / 2, LABEL + row["median"] * scale
    low, high = LABEL + row["low"] * scale, LABEL + row["high"] * scale
    colour = COLOURS.get(row["peer"], OTHER)
    name = escape(peer_name(row).replace("`", ""))
    yield f'<text x="{LABEL - 8}" y="{y + 12}" text-anchor="end">{name}</text>'
    yield f'<rect x="{LABEL}" y="{y}" width="{max(end - LABEL, 0.5):.1f}" height="{BAR}" fill="{colour}"/>'
    if row["n"] > 1:
        yield f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="black"/>'
    yield f'<text x="{max(end, high) + 6:.1f}" y="{y + 12}">{number(row["median"])}</text>'
