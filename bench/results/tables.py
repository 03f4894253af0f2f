"""Tables in Markdown: workloads as rows, peers as columns."""

from suite.workloads import AREA_OF, BOUNDS, LABELS, NO_PEERS, UNITS

from results.rows import best, number, peer_name


def table(results, workloads):
    """Returns the table of these workloads, with a note for each figure that is missing; empty if none was measured."""
    rows = {name: results.of(name) for name in workloads}
    rows = {name: found for name, found in rows.items() if found}
    peers = list(dict.fromkeys(peer_name(row) for found in rows.values() for row in found))
    if not rows:
        return ""
    notes = []
    lines = [["", "", *peers]]
    for name, found in rows.items():
        bounds = NO_PEERS if AREA_OF[name] == "large" else BOUNDS
        first = best([row for row in found if row["n"] and row["peer"] not in bounds])
        cells = {peer_name(row): cell(row, notes, row is first) for row in found}
        lines.append([LABELS[name], UNITS[name], *(cells.get(peer, "") for peer in peers)])
    text = markdown(lines)
    return text + "".join(f"\n{index}. {note}" for index, note in enumerate(notes, 1)) + ("\n" if notes else "")


def cell(row, notes, is_best):
    """Returns the median, bold if it is the best, with the lowest and the highest sample; or the number of a note."""
    if not row["n"]:
        notes.append(f"{LABELS[row['workload']]}, {peer_name(row)}: {escape(row['why'])}")
        return f"– ({len(notes)})"
    median, low, high = (number(row[part]) for part in ("median", "low", "high"))
    median = f"**{median}**" if is_best else median
    return median if row["n"] == 1 else f"{median} ({low}–{high})"


def escape(text):
    """Returns the text as it is in Markdown."""
    return "".join(f"\\{character}" if character in "|<>[]*_`\\" else character for character in text)


def markdown(lines):
    """Returns the lines, lists of cells, as a table."""
    head, *body = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([head, "|---" * len(lines[0]) + "|", *body]) + "\n"


def goals(found):
    """Returns the table of the goals."""
    lines = [["work", "link", "what", "measured", "goal", ""]]
    for goal in found:
        value = "" if goal.value is None else number(goal.value)
        lines.append([goal.work, goal.link, goal.what, value, goal.limit_text, goal.verdict])
    return markdown(lines)


# For README.md: workload, and the peers of its last column.
SUMMARY = (
    ("command-20", ("kubectl-zuul", "kubectl-pipelined")),
    ("copy", ("kubectl-zuul", "kubectl-pipelined")),
    ("setup", ("kubectl-zuul", "kubectl-pipelined")),
    ("pods-20", ("kubectl-zuul", "kubectl-pipelined")),
    ("zuul-command", ("kubectl-zuul",)),
    ("zuul-line-p50", ("kubectl-zuul",)),
    ("exec-true", ("kubectl-exec",)),
    ("rate-in", ("kubectl-cp",)),
    ("files-50000-in", ("tar",)),
    ("memory-bridge", ("kubectl",)),
)


def summary(results):
    """Returns the table of README.md."""
    lines = [["", "kubectl", "ssh", "mitogen over ssh", "podbridge"]]
    for name, kubectls in SUMMARY:
        ours = results.row(name, "podbridge")
        kubectl = next((row for peer in kubectls if (row := results.row(name, peer))), None)
        ssh = best([row for peer in ("ssh", "rsync", "git-ssh") if (row := results.row(name, peer))])
        mitogen = results.row(name, "mitogen-ssh")
        if ours and kubectl:
            cells = [f"{number(row['median'])}" if row else "" for row in (kubectl, ssh, mitogen, ours)]
            lines.append([f"{LABELS[name]}, {UNITS[name]}", *cells])
    return markdown(lines)
