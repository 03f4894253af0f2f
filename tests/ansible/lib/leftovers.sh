# This file owns the end of a run: its bridges and pods go, and what is left of them makes the run fail.

finish() {
	local status=$? pid
	trap - EXIT
	for pid in $(bridge_pids); do kill "$pid"; done
	remove_pods
	if ! poll 10 no_bridges; then
		say "bridges are left: $(bridge_pids)"
		status=1
	fi
	[ -n "${KEEP:-}" ] || rm -rf "$WORK"
	exit "$status"
}

no_bridges() { [ -z "$(bridge_pids)" ]; }

# Bridges of this run are the ones with its directory in their environment.
bridge_pids() {
	local process
	for process in /proc/[0-9]*; do
		if grep -qzFx "PODBRIDGE_DIR=$WORK/bridges" "$process/environ" 2>/dev/null &&
			[[ $(readlink "$process/exe" 2>/dev/null) == "$ROOT/dist/bin/podbridge"* ]]; then
			echo "${process#/proc/}"
		fi
	done
}

# What runs in a pod and is not the pod's own: every process but its first one's tree of keepers, this look, and the agent.
strangers() {
	in_pod "$1" ps -e -o pid=,ppid=,args= |
		grep -vE '^ *1 |podbridge-agent|sleep 3600|ps -e -o|<defunct>|^ *[0-9]+ +[0-9]+ +/bin/sh -c trap' || :
}

no_strangers() { [ -z "$(strangers "$1")" ]; }
