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
	# A warm Python and the process that waits for a module have a pipe as input, no output, a pipe for errors, and a socket to the agent after
	# these; the command of a play has pipes only. Their shell, and the process that waits to be the parent of the next module, have no other children. The command line
	# tells nothing: a module on standard input has the same one. Root of a container without CAP_SYS_PTRACE may not look at the descriptors of
	# another user, but that user may.
	# shellcheck disable=SC2016
	exec_in_pod "$1" sh -c '
		is_warm() {
			uid=$(ps -o uid= -p "$1") gid=$(ps -o gid= -p "$1") || return
			case $(cd "/proc/$1" && setpriv --reuid $uid --regid $gid --clear-groups \
				readlink exe fd/0 fd/1 fd/2 fd/3 fd/4 | tr "\n" " ") in
			*/python*" pipe:"*" /dev/null pipe:"*" socket:"*) return ;;
			esac
			children=$(pgrep -P "$1") || return
			for child in $children; do is_warm "$child" || return; done
		}
		ps -e -o pid=,ppid=,args= | while read -r pid parent arguments; do
			case $pid,$parent,$arguments in
			1,* | "$$,"* | *",$$,"* | *podbridge-agent* | *,"sleep 3600" | *"<defunct>" | *",/bin/sh -c trap"*) ;;
			*) is_warm "$pid" || echo "$pid $parent $arguments" ;;
			esac
		done'
}

no_other_processes() { [ -z "$(other_processes "$1")" ]; }
