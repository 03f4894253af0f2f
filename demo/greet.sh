#!/bin/sh
# Sent to the pod and run there by the play.
cat "$1"
