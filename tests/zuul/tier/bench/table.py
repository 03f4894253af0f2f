"""Tables of results: podbridge, stock and their ratio, in the Markdown of docs/benchmarks.md."""

import os

PEERS = ("podbridge", "stock")


def show(title, rows):
    """Prints a table; each row is (label, {peer: number}, format, goal)."""
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"\n{title} (load {load})\n\n| | podbridge | stock | stock : podbridge | goal |\n|---|---|---|---|---|")
    for label, numbers, number_format, goal in rows:
        ours, stock = (numbers[peer] for peer in PEERS)
        ratio = f"{stock / ours:.1f}" if ours else "–"
        print(f"| {label} | {number_format.format(ours)} | {number_format.format(stock)} | {ratio} | {goal} |")
    print(flush=True)


def percentile(values, percent):
    """Returns the value at this percentile, without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
