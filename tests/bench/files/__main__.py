"""Entry point: runs the named benchmarks, or all of them."""

import os
import sys

from files import repositories, single, testbed, trees

BENCHES = {"single": single.bench, "trees": trees.bench, "repositories": repositories.bench}


def main(names):
    unknown = set(names) - set(BENCHES)
    if unknown:
        raise SystemExit(f"unknown benchmark {', '.join(sorted(unknown))}; the benchmarks are {', '.join(BENCHES)}")
    with testbed.pod() as address:
        for name in names or BENCHES:
            print(f"\n# {name} (load {os.getloadavg()[0]:.1f})")
            BENCHES[name](address)


main(sys.argv[1:])
