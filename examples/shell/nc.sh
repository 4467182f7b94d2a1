#!/bin/sh
# Mean, median and mode of numbers, by OpenBSD's netcat: nc.sh SOCKET NUMBER…
#
# One request a line, one reply a line. -N ends the input, which says that there are no more requests: the service
# answers those that it has, and closes.

socket=$1
shift
numbers=$(IFS=, && echo "$*")

for method in mean median mode; do
  echo "{\"jsonrpc\":\"2.0\",\"id\":\"$method\",\"method\":\"$method\",\"params\":{\"numbers\":[$numbers]}}"
done | nc -NU "$socket"
