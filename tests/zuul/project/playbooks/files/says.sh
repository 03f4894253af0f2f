#!/bin/sh
# Script that compare.yaml sends to the pod: prints its arguments and fails if the first is `fail`.
for word; do echo "script: $word"; done
echo "script: an error" >&2
[ "$1" != fail ] || exit 6
