# The command `plays`: runs our own plays and checks from outside which host becomes unreachable, how fast and with which message,
# and that no process is left in the pod. `../run` sources this file.

# run_plays PLAY…
run_plays() {
	local play
	for play in "$@"; do
		"play_$play" "${play//_/-}-${CORE/./-}"
		say "play $play passed"
	done
}

# inventory: prints an inventory in YAML; reads one host per line from stdin: NAME POD [NAMESPACE].
inventory() {
	local name pod
	echo "all:"
	echo "  hosts:"
	while read -r name pod; do
		echo "    $name:"
		# shellcheck disable=SC2086
		host_vars $pod | sed 's/^/      /'
	done
}

# playbook LOG PLAY INVENTORY: runs a play, which has to succeed.
playbook() { run_logged "$1" ansible-playbook -i "$3" "$HERE/plays/$2.yml" -e "work=$WORK"; }

# start_playbook LOG PLAY INVENTORY: starts a play in the background, in its own session; $! is the leader of that session.
start_playbook() {
	setsid ansible-playbook -i "$3" "$HERE/plays/$2.yml" -e "work=$WORK" >"$WORK/$1.log" 2>&1 </dev/null &
}

play_semantics() {
	new_pod "$1"
	inventory >"$WORK/semantics.yaml" <<<"testhost $1"
	playbook semantics semantics "$WORK/semantics.yaml"
	expect_nothing_left "$1"
	expect_seen_leftovers "$1"
}

# Processes that a play could leave, and that look most like a warm Python, are found. Each line is a command.
expect_seen_leftovers() {
	local line started=''
	while read -r line; do
		started+="{ exec $line; } <>/tmp/left >/dev/null 2>&1 & echo \$!;"
	done <<-'END'
		/usr/bin/python3
		setsid /usr/bin/python3
		/bin/sh -c '/usr/bin/python3 && sleep 0'
		cat
	END
	exec_in_pod "$1" sh -c "mkfifo /tmp/left; $started" >"$WORK/left"
	poll 10 all_seen "$1" || { other_processes "$1" >&2; die "not all processes that a play could leave are found: $(xargs <"$WORK/left")"; }
	# shellcheck disable=SC2046 # pids
	exec_in_pod "$1" sh -c 'for pid; do pkill -KILL -P $pid; kill -KILL $pid; done; rm /tmp/left' - $(cat "$WORK/left")
	expect_nothing_left "$1"
}

# all_seen POD: whether each process of $WORK/left runs its own program already and is taken for a leftover.
all_seen() {
	other_processes "$1" >"$WORK/seen"
	! grep -q mkfifo "$WORK/seen" && [ -z "$(cut -d' ' -f1 "$WORK/seen" | sort | comm -13 - <(sort "$WORK/left"))" ]
}

play_unknown_user() {
	new_pod "$1"
	inventory >"$WORK/unknown_user.yaml" <<<"testhost $1"
	playbook unknown_user unknown_user "$WORK/unknown_user.yaml"
}

play_same_name_pods() {
	local other=two
	[ "$PLACE" = local ] || other=$NAMESPACE-b
	new_pod "$1"
	new_pod "$1" "$other"
	inventory >"$WORK/same_name_pods.yaml" <<<"one $1"$'\n'"two $1 $other"
	sed -i 's/^all:/same_name_pods:/' "$WORK/same_name_pods.yaml"
	playbook same_name_pods same_name_pods "$WORK/same_name_pods.yaml"
}

play_reset_dead() {
	local status=0
	new_pod "$1-a"
	new_pod "$1-d"
	inventory >"$WORK/reset.yaml" <<<"alive $1-a"$'\n'"dead $1-d"
	start_playbook reset_dead reset_dead "$WORK/reset.yaml"
	poll 60 grep -q 'Wait until it is dead' "$WORK/reset_dead.log" || fail reset_dead "the first play did not run"
	delete_pod "$1-d"
	poll 30 pod_is_gone "$1-d"
	touch "$WORK/dead-is-dead"
	wait $! || status=$?
	rm "$WORK/dead-is-dead"
	[ $status = 4 ] || fail reset_dead "exit status $status instead of 4 (unreachable)"
	grep -qE '^changed: \[alive\]' "$WORK/reset_dead.log" || fail reset_dead "the host that is alive did not go on"
	grep -qE '^fatal: \[dead\]: UNREACHABLE' "$WORK/reset_dead.log" || fail reset_dead "the dead host is not unreachable"
}

play_container_killed() { expect_unreachable container_killed "$1" 'container|agent|pod' kill_container "$1"; }
play_pod_deleted() { expect_unreachable pod_deleted "$1" 'pod|agent' delete_pod "$1"; }

# Kills the bridge during a command: the command and its task go on over another bridge.
play_bridge_killed() {
	local name=bridge_killed pod=$1
	new_pod "$pod"
	inventory >"$WORK/$name.yaml" <<<"testhost $pod"
	start_playbook "$name" outlive "$WORK/$name.yaml"
	poll 60 exec_in_pod "$pod" test -e /tmp/counter || fail "$name" "the command did not start"
	kill_bridges
	poll 30 bridges_running || fail "$name" "no other bridge was started"
	exec_in_pod "$pod" touch /tmp/go
	wait $! || fail "$name" "the task did not go on"
}

bridges_running() { ! bridges_ended; }

kill_bridges() {
	local pid
	for pid in $(bridge_pids); do kill -KILL "$pid"; done
}

# expect_unreachable NAME POD REASON COMMAND…: runs COMMAND while a module runs, and checks that the host becomes unreachable within 15
# seconds with a message that matches REASON.
expect_unreachable() {
	local name=$1 pod=$2 reason=$3 status=0 started
	shift 3
	new_pod "$pod"
	inventory >"$WORK/$name.yaml" <<<"testhost $pod"
	start_playbook "$name" loss "$WORK/$name.yaml"
	poll 60 process_runs "$pod" 'sleep 86397' || fail "$name" "the module did not start"
	started=$(date +%s)
	"$@"
	wait $! || status=$?
	[ $status = 4 ] || fail "$name" "exit status $status instead of 4 (unreachable)"
	[ $(($(date +%s) - started)) -le 15 ] || fail "$name" "it took $(($(date +%s) - started)) s"
	grep -E '^fatal: \[testhost\]: UNREACHABLE' "$WORK/$name.log" | grep -qE "\"msg\": \"[^\"]*($reason)" ||
		fail "$name" "the message does not match /$reason/"
	say "$name: $(sed -n 's/^fatal: .*"msg": "\([^"]*\)".*/\1/p' "$WORK/$name.log")"
}

# process_tree PID: prints the pid and those of its descendants; workers of newer cores are not in the session of their playbook.
process_tree() {
	local child
	echo "$1"
	for child in $(ps -o pid= --ppid "$1"); do process_tree "$child"; done
}

# Aborts a playbook as Zuul does, with SIGKILL for all its processes: nothing of it keeps running in the pod.
play_playbook_killed() {
	local leader
	new_pod "$1"
	inventory >"$WORK/playbook_killed.yaml" <<<"testhost $1"
	start_playbook playbook_killed loss "$WORK/playbook_killed.yaml"
	leader=$!
	poll 60 process_runs "$1" 'sleep 86397' || fail playbook_killed "the module did not start"
	# shellcheck disable=SC2046
	kill -KILL $(process_tree "$leader")
	wait "$leader" 2>/dev/null || :
	expect_nothing_left "$1"
}

play_no_python() {
	printf '#!/bin/sh\necho "got $1"\nid -un\n' >"$WORK/script.sh"
	IMAGE=${PODBRIDGE_TEST_BUSYBOX_IMAGE:-localhost/podbridge-test/busybox:1} new_pod "$1"
	inventory >"$WORK/no_python.yaml" <<<"testhost $1"
	playbook no_python no_python "$WORK/no_python.yaml"
}

# Runs a play through oc.py, with the variables of community.okd.oc.
play_oc() {
	new_pod "$1"
	PREFIX=oc PLUGIN=oc inventory >"$WORK/oc.yaml" <<<"testhost $1"
	playbook oc ping "$WORK/oc.yaml"
}

process_runs() { exec_in_pod "$1" ps -e -o args= | grep -qFx "$2"; }

expect_nothing_left() {
	poll 15 no_other_processes "$1" || { other_processes "$1" >&2; die "processes are left in pod $1"; }
}

fail() {
	tail -n 40 "$WORK/$1.log" >&2
	die "failed: $1: $2"
}
