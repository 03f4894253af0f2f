"""Benchmark of one large file, compared with plain streams over the same links."""

import os

from files import raw_tls, testbed
from files.testbed import KUBECTL, NAMESPACE, POD, SSH, WORK, measure_action, podbridge, run, shell

SIZE = int(os.environ.get("SIZE") or 1 << 30)
ROUNDS = 3


def bench(address):
    source = WORK / "file"
    with open(source, "wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
    there, back = "/memory/file", WORK / "back"
    kubectl, bridge = " ".join(map(str, KUBECTL)), " ".join(map(str, podbridge("exec", "-i", POD, "--")))
    ssh, api = " ".join(SSH), podbridge("--link", "exec-proxy", "cp", "-q")
    link = raw_tls.RawTls(address)
    # The rows `link:` are the upper bounds: a stream with a file at each end.
    up = {
        "link: TLS over TCP": lambda: link.up(source, there),
        "link: kubectl exec cat": lambda: shell(f"{kubectl} exec -i {POD} -- sh -c 'cat >{there}' <{source}"),
        "podbridge exec cat": lambda: shell(f"{bridge} sh -c 'cat >{there}' <{source}"),
        "podbridge cp": lambda: run(podbridge("cp", "-q", source, f"{POD}:{there}")),
        "podbridge cp through the API server": lambda: run([*api, source, f"{POD}:{there}"]),
        "kubectl cp": lambda: run([*KUBECTL, "cp", source, f"{NAMESPACE}/{POD}:{there}"]),
        "rsync over ssh": lambda: run(["rsync", "--whole-file", "-e", ssh, source, f"root@{address}:{there}"]),
    }
    down = {
        "link: TLS over TCP": lambda: link.down(there, back),
        "link: kubectl exec cat": lambda: shell(f"{kubectl} exec {POD} -- cat {there} >{back}"),
        "podbridge exec cat": lambda: shell(f"{bridge} cat {there} >{back}"),
        "podbridge cp": lambda: run(podbridge("cp", "-q", f"{POD}:{there}", back)),
        "podbridge cp through the API server": lambda: run([*api, f"{POD}:{there}", back]),
        "kubectl cp": lambda: run([*KUBECTL, "cp", f"{NAMESPACE}/{POD}:{there}", back]),
        "rsync over ssh": lambda: run(["rsync", "--whole-file", "-e", ssh, f"root@{address}:{there}", back]),
    }
    for title, methods in (("into the pod", up), ("out of the pod", down)):
        compare(title, methods, there, back)
    link.close()


def compare(title, methods, there, back):
    """Runs each of {name: action} ROUNDS times and prints the best times."""
    rows = {name: [] for name in methods}
    peaks = (0.0, 0.0)
    # The methods alternate, so that a slow phase of the machine affects all of them.
    for _ in range(ROUNDS):
        for name, action in methods.items():
            back.unlink(missing_ok=True)
            if title == "into the pod":
                testbed.exec_in_pod(f"rm -f {there}")
            testbed.reset_peaks()
            rows[name].append(measure_action(action))
            if name == "podbridge cp":
                peaks = testbed.peak("podbridge"), testbed.peak("podbridge-agent")
    best = {name: min(times) for name, times in rows.items()}
    megabytes = SIZE / 1e6

    def relative_rate(link, seconds):
        return f"{best[link][0] / seconds:.2f}"

    lines = [
        (
            name,
            f"{megabytes / seconds:.0f} MB/s",
            relative_rate("link: TLS over TCP", seconds),
            relative_rate("link: kubectl exec cat", seconds),
            f"{cpu / megabytes * 1000:.2f} ms",
        )
        for name, (seconds, cpu) in best.items()
    ]
    testbed.table(
        f"{megabytes:.0f} MB {title}, the best of {ROUNDS}; bridge {peaks[0]:.0f} MB resident, agent {peaks[1]:.0f} MB",
        ["rate", "of TLS over TCP", "of kubectl exec cat", "processor per MB, whole machine"],
        lines,
    )
