#!/bin/sh
# For compare.yaml.
for word; do echo "script: $word"; done
echo "script: an error" >&2
[ "$1" != fail ] || exit 6
