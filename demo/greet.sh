#!/bin/sh
# The play copies this script to the pod and runs it there.
cat "$1"
