#!/bin/sh
# Stands in for a child process that has gone mad: speaks the protocol, and answers nonsense.
head -c 1 >/dev/null
printf '\0\0\0\0\0\0\0\0'
cat >/dev/null
printf nonsense
