"""Mean of a numpy array that the service uses where it is: mean_array.py SOCKET NUMBER...

The array lies in a sealed memfd, which nobody can change any more. So the service maps it, and
copies nothing."""

import fcntl
import json
import os
import socket
import sys

import numpy


def sealed(array):
    """A descriptor of the array's values, as little-endian 64-bit floats."""
    memfd = os.memfd_create("array", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(memfd, "wb", closefd=False) as file:
        array.astype("<f8").tofile(file)
    # The service reads from the current offset, which is at the end.
    os.lseek(memfd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
    return memfd


if __name__ == "__main__":
    array = numpy.array(sys.argv[2:], dtype=float)
    query = {"attached": 0, "format": "f64", "missing": "skip"}
    request = {"jsonrpc": "2.0", "id": 1, "method": "mean", "params": query}
    with socket.socket(socket.AF_UNIX) as stats:
        stats.connect(sys.argv[1])
        socket.send_fds(stats, [json.dumps(request).encode() + b"\n"], [sealed(array)])
        reply = json.loads(stats.makefile().readline())
    if "error" in reply:
        sys.exit(f"mean_array.py: {reply['error']['message']}")
    result = reply["result"]
    print("mean", result["value"], "of", result["count"], "numbers,", result["missing"], "missing")
