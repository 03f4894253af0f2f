"""The workloads: name, label and unit of each, in the order of the report; and the peers."""

# Area: [(workload, label, unit)]. `ONLY=` takes areas.
AREAS = {
    "command": [
        ("command-20", "`command`, 20 tasks", "ms per task"),
        ("command-100", "`command`, 100 tasks", "ms per task"),
    ],
    "newest": [
        ("newest-command-20", "`command`, 20 tasks, newest core", "ms per task"),
        ("newest-command-100", "`command`, 100 tasks, newest core", "ms per task"),
    ],
    "loop": [("loop", "`command` in a loop", "ms per item")],
    "raw": [("raw", "`raw`", "ms per task")],
    "copy": [("copy", "`copy` of 1 KB", "ms per task")],
    "template": [("template", "`template`", "ms per task")],
    "setup": [("setup", "`setup` (facts)", "ms per task")],
    "package": [
        ("apt", "`apt`, the package is there", "ms per task"),
        ("package-facts", "`package_facts`", "ms per task"),
    ],
    "play": [("play", "a realistic play of 100 tasks", "s")],
    "large": [("copy-large", "`copy` of 100 MB", "ms"), ("fetch-large", "`fetch` of 100 MB", "ms")],
    "pods": [
        ("pods-1", "1 pod × 10 `command`", "ms per task"),
        ("pods-20", "20 pods × 10 `command`, 20 forks", "ms per task"),
        ("pods-20-cpu", "20 pods × 10 `command`: processor time of the executor", "ms per task"),
    ],
    "pods100": [
        ("pods-100", "100 pods × 2 `command`, 50 forks", "ms per task"),
        ("pods-100-cpu", "100 pods × 2 `command`: processor time of the executor", "ms per task"),
    ],
    "operation": [
        ("exec-true", "`exec true`, the whole process", "ms"),
        ("exec-true-cpu", "`exec true`: its processor time", "ms"),
        ("warm-true", "`true` over an open connection", "ms"),
    ],
    "rate": [("rate-in", "one large file into the pod", "MB/s"), ("rate-out", "one large file out of the pod", "MB/s")],
    "files": [
        ("files-1000-in", "1,000 files into the pod", "s"),
        ("files-1000-out", "1,000 files out of the pod", "s"),
    ],
    "trees": [
        ("files-50000-in", "50,000 files into the pod", "s"),
        ("files-50000-again", "50,000 files again, nothing has changed", "s"),
        ("files-50000-out", "50,000 files out of the pod", "s"),
    ],
    "push": [
        ("push-50", "50 repositories of 2 MB pushed at once", "s"),
        ("push-50-true", "`true` while 50 repositories are pushed, 99th percentile", "ms"),
        ("push-cached", "a push of one commit; the image has the repository of 500 MB", "s"),
    ],
    "memory": [
        ("memory-bridge", "idle pod: anonymous memory on the executor", "MB"),
        ("memory-agent", "idle pod: anonymous memory of the agent", "MB"),
        ("memory-warm", "idle pod: anonymous memory of the agent with a warm interpreter", "MB"),
        ("memory-warm-files", "the same with the pages of programs and libraries", "MB"),
        ("memory-warm-busy", "anonymous memory with a warm interpreter just after a module", "MB"),
    ],
    "zuul": [
        ("zuul-command", "Zuul: `command` with its live log", "ms per task"),
        ("zuul-skipped", "Zuul: a skipped task (`when: false`)", "ms per task"),
        ("zuul-creates", "Zuul: a skipped task (`creates:`)", "ms per task"),
        ("zuul-line-p50", "Zuul: a line of the live log, median", "ms"),
        ("zuul-line-p99", "Zuul: a line of the live log, 99th percentile", "ms"),
    ],
    "zuul100": [
        ("zuul-command-silent", "Zuul: `command` without a live log", "ms per task"),
        ("zuul-idle-memory", "Zuul: an idle port-forward, anonymous memory", "MB"),
        ("zuul-idle-switches", "Zuul: an idle port-forward, context switches per minute", "switches"),
        ("zuul-100-start", "Zuul: until it has the port-forwards of 100 pods", "s"),
        ("zuul-100-memory", "Zuul: 100 port-forwards, anonymous memory", "MB"),
        ("zuul-100-cpu", "Zuul: 100 port-forwards, processor time of an idle minute", "s"),
    ],
}
# Areas that QUICK=1 leaves out, because they take minutes.
LONG = {"play", "trees", "push", "pods100", "zuul100"}

LABELS = {name: label for rows in AREAS.values() for name, label, _unit in rows}
UNITS = {name: unit for rows in AREAS.values() for name, _label, unit in rows}
AREA_OF = {name: area for area, rows in AREAS.items() for name, _label, _unit in rows}
# For these, more is better.
RATES = {"rate-in", "rate-out"}
# No ways to run something in a pod, but bounds of what such a way could reach.
BOUNDS = ("null", "tls")
# The same, and the stream that copies a file without Ansible, where the other rows are Ansible's.
NO_PEERS = (*BOUNDS, "kubectl-exec")

PEERS = {
    "null": "null transport",
    "podbridge": "podbridge",
    "mitogen-ssh": "mitogen over ssh",
    "mitogen-kubectl": "mitogen over kubectl",
    "ssh": "ssh, mux, pipelined",
    "kubectl-pipelined": "kubectl, pipelined",
    "kubectl-zuul": "kubectl, as Zuul sets it",
    "kubectl": "kubectl",
    "kubectl-exec": "`kubectl exec`",
    "kubectl-cp": "`kubectl cp`",
    "tar": "tar over `kubectl exec`",
    "rsync": "rsync over ssh",
    "git-ssh": "git over ssh",
    "tls": "a TLS stream",
}
