#!/usr/bin/env python3
"""Comparison of two runs of plays/compare.yml, task by task, from the output of the JSON callback. Only the differences
in DEFECTS are allowed; one of them that no longer occurs is an error too. compare.sh runs this program:

    compare.py STOCK.json PODBRIDGE.json
"""

import json
import re
import sys

KUBECTL_MESSAGE = "kubectl adds its message `command terminated with exit code N` to the command's stderr"
# Known defects of kubernetes.core.kubectl. Task: the keys of the result that differ, the defect.
DEFECTS = {
    "raw that fails": ({"stderr", "stderr_lines"}, KUBECTL_MESSAGE),
    "script that fails": ({"stderr", "stderr_lines"}, KUBECTL_MESSAGE),
    "fetch a name with a space": (
        {"changed", "checksum", "dest", "failed", "md5sum", "msg", "remote_checksum"},
        "the plugin does not quote the remote name",
    ),
}

# Keys whose values differ from run to run.
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
# Patterns in values that differ from run to run, and their replacements.
RANDOM = [
    (re.compile(r"ansible-tmp-[0-9.]+-[0-9]+-[0-9]+"), "ansible-tmp"),
    (re.compile(r"/tmp/tmp\.\w+"), "WORK"),
    (re.compile(r"fetched-\w+"), "fetched"),
    (re.compile(r"compare-(stock|podbridge)"), "compare"),
    (re.compile(r"/\.ansible_\w+\b"), "/.ansible"),
]


def normalize(value):
    """Returns the value without the parts that differ from run to run."""
    if isinstance(value, dict):
        return {key: normalize(value[key]) for key in value if key not in VOLATILE}
    if isinstance(value, list):
        return [normalize(item) for item in value]
    if isinstance(value, str):
        for pattern, replacement in RANDOM:
            value = pattern.sub(replacement, value)
    return value


def read_results(path):
    """Returns {name of the task: its result for the host testhost}."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    data = json.loads(text[text.index("{") :])
    return {task["task"]["name"]: task["hosts"]["testhost"] for play in data["plays"] for task in play["tasks"]}


def main():
    stock, ours = (read_results(path) for path in sys.argv[1:3])
    failures, seen = [], set()
    if list(stock) != list(ours):
        failures.append(f"the runs have different tasks: {sorted(set(stock) ^ set(ours))}")
    for task in stock.keys() & ours.keys():
        before, after = normalize(stock[task]), normalize(ours[task])
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
