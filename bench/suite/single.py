"""One large file in both directions, compared with plain streams over the same links."""

import os

from suite import clock, raw_tls, settings, testbed
from suite.rows import say
from suite.settings import NAMESPACE, WORK, count
from suite.testbed import KUBECTL, POD, SSH, measure_action, podbridge, run, shell

SIZE = int(os.environ.get("BENCH_SIZE") or count(1 << 29, 200 << 20))


def measure(rows, address):
    source = WORK / "file"
    with open(source, "wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
    there, back = "/memory/file", WORK / "back"
    link = raw_tls.RawTls(address)
    try:
        for workload, chosen in (
            ("rate-in", into(source, there, address, link)),
            ("rate-out", out_of(there, back, address, link)),
        ):
            for number in clock.rounds(settings.ROUNDS):
                say(f"{workload}: round {number + 1} of {settings.ROUNDS}")
                for (peer, name), action in chosen.items():
                    back.unlink(missing_ok=True)
                    if workload == "rate-in":
                        testbed.exec_in_pod(f"rm -f {there}")
                    rows.measure([workload], peer, name, lambda action=action: [SIZE / 1e6 / measure_action(action)[0]])
    finally:
        link.close()
        for path in (source, back):
            path.unlink(missing_ok=True)
        testbed.exec_in_pod(f"rm -f {there}")


def into(source, there, address, link):
    """Returns {(peer, link): action} for copies into the pod. The TLS stream has a file at each end."""
    kubectl, ssh = " ".join(map(str, KUBECTL)), " ".join(SSH)
    direct, api = podbridge("--link", "direct", "cp", "-q"), podbridge("--link", "exec-proxy", "cp", "-q")
    return {
        ("tls", "tcp"): lambda: link.up(source, there),
        ("podbridge", "direct"): lambda: run([*direct, source, f"{POD}:{there}"]),
        ("podbridge", "exec-proxy"): lambda: run([*api, source, f"{POD}:{there}"]),
        ("kubectl-exec", "api"): lambda: shell(f"{kubectl} exec -i {POD} -- sh -c 'cat >{there}' <{source}"),
        ("kubectl-cp", "api"): lambda: run([*KUBECTL, "cp", source, f"{NAMESPACE}/{POD}:{there}"]),
        ("rsync", "ssh"): lambda: run(["rsync", "--whole-file", "-e", ssh, source, f"root@{address}:{there}"]),
    }


def out_of(there, back, address, link):
    """Returns {(peer, link): action} for copies out of the pod."""
    kubectl, ssh = " ".join(map(str, KUBECTL)), " ".join(SSH)
    direct, api = podbridge("--link", "direct", "cp", "-q"), podbridge("--link", "exec-proxy", "cp", "-q")
    return {
        ("tls", "tcp"): lambda: link.down(there, back),
        ("podbridge", "direct"): lambda: run([*direct, f"{POD}:{there}", back]),
        ("podbridge", "exec-proxy"): lambda: run([*api, f"{POD}:{there}", back]),
        ("kubectl-exec", "api"): lambda: shell(f"{kubectl} exec {POD} -- cat {there} >{back}"),
        ("kubectl-cp", "api"): lambda: run([*KUBECTL, "cp", f"{NAMESPACE}/{POD}:{there}", back]),
        ("rsync", "ssh"): lambda: run(["rsync", "--whole-file", "-e", ssh, f"root@{address}:{there}", back]),
    }
