"""Test program: writes MiB of data to the stdin of a command, reads its stdout meanwhile, and compares the digests.

Usage: pump.py MEBIBYTES COMMAND…; exec_bytes.yaml runs it.
"""

import hashlib
import os
import subprocess
import sys
import threading

BLOCK = 1 << 20


def write(pipe, blocks, digest):
    seed = os.urandom(BLOCK - 8)
    for number in range(blocks):
        block = number.to_bytes(8, "big") + seed
        digest.update(block)
        pipe.write(block)
    pipe.close()


def main():
    blocks, command = int(sys.argv[1]), sys.argv[2:]
    sent, received, size = hashlib.sha256(), hashlib.sha256(), 0
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    writer = threading.Thread(target=write, args=(child.stdin, blocks, sent), daemon=True)
    writer.start()
    while block := child.stdout.read1(BLOCK):
        received.update(block)
        size += len(block)
    status = child.wait()
    writer.join()
    if status or size != blocks * BLOCK or sent.digest() != received.digest():
        digests = f"{sent.hexdigest()} and {received.hexdigest()}"
        sys.exit(f"exit code {status}, {size} of {blocks * BLOCK} bytes came back, digests {digests}")
    print(f"{blocks} MiB in both directions, the same: {sent.hexdigest()}")


main()
