# Cleanup at the end of a run: it ends the bridges and deletes the pods, and the run fails if a bridge is left. `../run` sources
# this file.

finish() {
	local status=$? pid
	trap - EXIT
	for pid in $(bridge_pids); do kill "$pid"; done
	remove_pods
	if ! poll 10 bridges_ended; then
		say "these bridges did not end: $(bridge_pids)"
		status=1
	fi
	[ -n "${KEEP:-}" ] || rm -rf "$WORK"
	exit "$status"
}

bridges_ended() { [ -z "$(bridge_pids)" ]; }

# Prints the pids of this run's bridges: the processes with its directory in their environment.
bridge_pids() {
	local process
	for process in /proc/[0-9]*; do
		if grep -qzFx "PODBRIDGE_DIR=$WORK/bridges" "$process/environ" 2>/dev/null &&
			[[ $(readlink "$process/exe" 2>/dev/null) == "$ROOT/dist/bin/podbridge"* ]]; then
			echo "${process#/proc/}"
		fi
	done
}

# other_processes POD: prints the processes that neither belong to the pod itself (its idle loop and the agent, with its warm Python) nor to
# this check.
other_processes() {
	exec_in_pod "$1" ps -e -o pid=,ppid=,args= |
		grep -vE '^ *1 |podbridge-agent|sleep 3600|ps -e -o|<defunct>|^ *[0-9]+ +[0-9]+ +/bin/sh -c trap' |
		grep -vE "^ *[0-9]+ +[0-9]+ +(/bin/sh -c .*)?/[^ ]*/python[0-9.]*( && sleep 0)?'?\$" || :
}

no_other_processes() { [ -z "$(other_processes "$1")" ]; }
