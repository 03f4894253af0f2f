"""This file owns how results are shown: podbridge, stock and their ratio, for people and for docs/benchmarks.md."""

import os

PEERS = ("podbridge", "stock")


def show(title, rows):
    """Rows are (what, {peer: number}, format, goal)."""
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"\n{title} (load {load})\n\n| | podbridge | stock | stock : podbridge | goal |\n|---|---|---|---|---|")
    for what, numbers, shape, goal in rows:
        ours, stock = (numbers[peer] for peer in PEERS)
        ratio = f"{stock / ours:.1f}" if ours else "–"
        print(f"| {what} | {shape.format(ours)} | {shape.format(stock)} | {ratio} | {goal} |")
    print(flush=True)


def percentile(values, percent):
    """Of the values themselves, none between them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
