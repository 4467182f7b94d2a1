"""Mean, median and mode of a file's numbers: stats.py SOCKET FILE

Large input does not cross the socket: its descriptor does, and the service reads it from there."""

import json
import socket
import sys


class Stats:
    """A connection to the service. The descriptors that are sent on it count 0, 1, 2 and so on."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.replies = self.socket.makefile("r", encoding="utf-8")
        self.calls = 0

    def call(self, method, params, descriptors=()):
        self.calls += 1
        request = {"jsonrpc": "2.0", "id": self.calls, "method": method, "params": params}
        socket.send_fds(self.socket, [json.dumps(request).encode() + b"\n"], descriptors)
        reply = json.loads(self.replies.readline() or '{"error": {"message": "the service has closed"}}')
        if "error" in reply:
            # Its "code" and "data" are for programs: the kind, and the line and column of what is wrong.
            raise RuntimeError(f"{reply['error']['message']}; {reply['error'].get('data')}")
        return reply["result"]


if __name__ == "__main__":
    try:
        stats = Stats(sys.argv[1])
        with open(sys.argv[2], "rb") as file:
            mean = stats.call("mean", {"attached": 0, "format": "text"}, [file.fileno()])
        print("mean   ", mean["value"])
        print("median ", stats.call("median", {"attached": 0})["value"])
        print("mode   ", *stats.call("mode", {"attached": 0})["values"] or ["none"])
    except (OSError, RuntimeError) as error:
        sys.exit(f"stats.py: {error}")
