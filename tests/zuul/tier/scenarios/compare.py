"""Scenario that compares the live log of one playbook through the stock kubectl and through the shim, line by line.
Only the differences in DIFFERENCES are allowed; one of them that no longer occurs is an error too.
"""

import difflib
import re

from tier import kube, settings
from tier.session import require_podbridge

# Task: the reason, the lines that only stock has, the lines that only podbridge has.
DIFFERENCES = {
    "No newline at the end": (
        "stock loses a last line without newline: the exit code is merged into it",
        [],
        ["node | the last line has no newline"],
    ),
    "Raw that fails": (
        "stock adds a message of kubectl to the command's stderr",
        ["node | command terminated with exit code 5"],
        [],
    ),
}

# Values that differ from run to run, and their replacements.
RANDOM = [
    (re.compile(r"zuul-compare-[0-9a-f]{8}-\d{10}"), "NAMESPACE"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "BUILD"),
    (re.compile(r"\b\d+:\d\d:\d\d\.\d+"), "DURATION"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}"), "TIME"),
    (re.compile(r"ansible-tmp-[0-9.]+-[0-9]+-[0-9]+"), "ansible-tmp"),
    (re.compile(r"/tmp/zuul-tier\.\w+"), "WORK"),
    (re.compile(r"\b(pid|port)\b(\W+)\d+"), r"\1\2N"),
]


def compare(session):
    """Same live log, line by line, for one playbook through stock and through podbridge."""
    require_podbridge()
    logs = {}
    for peer in ("stock", "podbridge"):
        with settings.temporary_peer(peer):
            node = session.node()
            build = session.run([node], "compare", expected="FAILURE")
            logs[peer] = sections(build.joblog())
            (settings.WORK / f"compare-{peer}.log").write_text(build.log_text())
            session.end(build)
            kube.delete_pod(*node[1:])
    found = find_differences(logs["stock"], logs["podbridge"])
    expected = {task: (stock, ours) for task, (_why, stock, ours) in DIFFERENCES.items()}
    wrong = [f"{task}: {DIFFERENCES[task][0]}: no longer occurs" for task in expected.keys() - found.keys()]
    for task, (stock, ours) in found.items():
        if expected.get(task) != (stock, ours):
            wrong.append(
                "\n".join(
                    [task, *[f"  stock:     {x[:300]}" for x in stock], *[f"  podbridge: {x[:300]}" for x in ours]]
                )
            )
    assert not wrong, "the live logs differ:\n" + "\n".join(wrong)


def normalize(text):
    """Replaces the values that differ from run to run."""
    for pattern, replacement in RANDOM:
        text = pattern.sub(replacement, text)
    return text


def sections(log):
    """Returns {task: its lines} in the order of the log; a name that occurs again gets a number."""
    found, name = {"": []}, ""
    for _when, text in log.lines:
        banner = re.match(r"(?:TASK|LOOP|PLAY|RUNNING HANDLER) \[(.*?)\]", text) or re.match(
            r"(PLAY RECAP|RUN \w+)", text
        )
        if banner:
            name = banner[1]
            again = sum(each.split(" #")[0] == name for each in found)
            name += f" #{again + 1}" if again else ""
            found[name] = []
        found[name].append(normalize(text))
    return found


def find_differences(stock, ours):
    """Returns {task: (lines only in stock, lines only in ours)} of the tasks that differ; both need the same tasks."""
    assert list(stock) == list(ours), f"not the same tasks: {sorted(set(stock) ^ set(ours)) or 'another order'}"
    found = {}
    for name in stock:
        if stock[name] != ours[name]:
            lines = list(difflib.ndiff(stock[name], ours[name]))
            found[name] = tuple([line[2:] for line in lines if line.startswith(mark)] for mark in ("- ", "+ "))
    return found
