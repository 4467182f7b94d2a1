#!/bin/sh
# Mean, median and mode of the numbers on standard input, by socat: seq 1 100 | socat.sh SOCKET
#
# A batch: several requests in one line, and one line with all replies. -t is how long socat waits for the reply after
# the end of its input: half a second, if nothing is said.

socket=$1
numbers=$(tr -s '[:space:]' , | sed 's/^,*//; s/,*$//')

request() { echo "{\"jsonrpc\":\"2.0\",\"id\":\"$1\",\"method\":\"$1\",\"params\":{\"numbers\":[$numbers]}}"; }

printf '%s\n' "[$(request mean),$(request median),$(request mode)]" | socat -t 30 - "UNIX-CONNECT:$socket"
