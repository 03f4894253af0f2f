#!/usr/bin/env python3
"""This file owns what `the same results` means: it compares the JSON callback's output of two runs of plays/compare.yml
task by task. A difference is allowed only where DEFECTS names it, and a defect that no longer shows is an error too.
"""

import json
import re
import sys

# Known defects of kubernetes.core.kubectl: the task, the keys that differ, and what it does there.
OWN_WORDS = "kubectl's own `command terminated with exit code N` is in the command's stderr"
DEFECTS = {
    "raw that fails": ({"stderr", "stderr_lines"}, OWN_WORDS),
    "script that fails": ({"stderr", "stderr_lines"}, OWN_WORDS),
    "fetch a name with a space": (
        {"changed", "checksum", "dest", "failed", "md5sum", "msg", "remote_checksum"},
        "a remote name is not quoted",
    ),
}

# Values that differ from run to run.
VOLATILE = {
    "ansible_job_id",
    "atime",
    "ctime",
    "mtime",
    "inode",
    "dev",
    "device",
    "delta",
    "start",
    "end",
    "elapsed",
    "results_file",
    "exception",
    "ansible_facts",
    "_ansible_no_log",
    "_original_basename",
    "started",
}
RANDOM = [
    (re.compile(r"ansible-tmp-[0-9.]+-[0-9]+-[0-9]+"), "ansible-tmp"),
    (re.compile(r"/tmp/tmp\.\w+"), "WORK"),
    (re.compile(r"fetched-\w+"), "fetched"),
    (re.compile(r"compare-(stock|podbridge)"), "compare"),
    (re.compile(r"/\.ansible_\w+\b"), "/.ansible"),
]


def settled(value):
    """The value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: settled(value[key]) for key in value if key not in VOLATILE}
    if isinstance(value, list):
        return [settled(item) for item in value]
    if isinstance(value, str):
        for pattern, replacement in RANDOM:
            value = pattern.sub(replacement, value)
    return value


def results(path):
    """Each task's name and result."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    data = json.loads(text[text.index("{") :])
    return {task["task"]["name"]: task["hosts"]["testhost"] for play in data["plays"] for task in play["tasks"]}


def main():
    stock, ours = (results(path) for path in sys.argv[1:3])
    failures, seen = [], set()
    if list(stock) != list(ours):
        failures.append(f"not the same tasks: {sorted(set(stock) ^ set(ours))}")
    for task in stock.keys() & ours.keys():
        before, after = settled(stock[task]), settled(ours[task])
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) == after.get(key):
                continue
            if key in DEFECTS.get(task, [()])[0]:
                seen.add(task)
                continue
            values = " / ".join(json.dumps(side.get(key), ensure_ascii=False)[:400] for side in (before, after))
            failures.append(f"{task}: {key}: {values}")
    for defect in sorted(DEFECTS.keys() - seen):
        failures.append(f"no longer a defect of the stock plugin: {defect}")
    for task in sorted(seen):
        print(f"known defect of kubernetes.core.kubectl: {task}: {DEFECTS[task][1]}")
    for failure in failures:
        print(f"differs (stock / podbridge): {failure}", file=sys.stderr)
    print(f"compared {len(stock)} tasks: {len(seen)} known defects, {len(failures)} differences")
    return 1 if failures or len(ours) < 30 else 0


if __name__ == "__main__":
    sys.exit(main())
