# This file owns our own plays and what is asked of them from outside: who may become unreachable, how fast, with which
# reason, and that nothing is left in the pod.

# run_plays PLAY…
run_plays() {
	local play
	for play in "$@"; do
		"play_$play" "${play//_/-}-${CORE/./-}"
		say "play $play passed"
	done
}

# inventory FILE: hosts from standard input, a line each: NAME POD [NAMESPACE].
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

# playbook LOG PLAY INVENTORY: to its end, which has to be a success.
playbook() { logged "$1" ansible-playbook -i "$3" "$HERE/plays/$2.yml" -e "work=$WORK"; }

# start_playbook LOG PLAY INVENTORY: in the background, in a session of its own; $! is its leader.
start_playbook() {
	setsid ansible-playbook -i "$3" "$HERE/plays/$2.yml" -e "work=$WORK" >"$WORK/$1.log" 2>&1 </dev/null &
}

play_semantics() {
	new_pod "$1"
	inventory >"$WORK/semantics.yaml" <<<"testhost $1"
	playbook semantics semantics "$WORK/semantics.yaml"
	expect_nothing_left "$1"
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
	grep -qE '^changed: \[alive\]' "$WORK/reset_dead.log" || fail reset_dead "the living host did not go on"
	grep -qE '^fatal: \[dead\]: UNREACHABLE' "$WORK/reset_dead.log" || fail reset_dead "the dead host is not unreachable"
}

play_container_killed() { lose container_killed "$1" 'container|agent|pod' kill_container "$1"; }
play_pod_deleted() { lose pod_deleted "$1" 'pod|agent' delete_pod "$1"; }

# The command goes on, and so does the task, over another bridge.
play_bridge_killed() {
	local name=bridge_killed pod=$1
	new_pod "$pod"
	inventory >"$WORK/$name.yaml" <<<"testhost $pod"
	start_playbook "$name" outlive "$WORK/$name.yaml"
	poll 60 in_pod "$pod" test -e /tmp/counter || fail "$name" "the command did not start"
	kill_bridges
	poll 30 some_bridges || fail "$name" "no other bridge was started"
	in_pod "$pod" touch /tmp/go
	wait $! || fail "$name" "the task did not go on"
}

some_bridges() { ! no_bridges; }

kill_bridges() {
	local pid
	for pid in $(bridge_pids); do kill -KILL "$pid"; done
}

# lose NAME POD REASON COMMAND…: COMMAND in mid-module makes the host unreachable within seconds, and the message says why.
lose() {
	local name=$1 pod=$2 reason=$3 status=0 begun
	shift 3
	new_pod "$pod"
	inventory >"$WORK/$name.yaml" <<<"testhost $pod"
	start_playbook "$name" loss "$WORK/$name.yaml"
	poll 60 runs_in "$pod" 'sleep 86397' || fail "$name" "the module did not start"
	begun=$(date +%s)
	"$@"
	wait $! || status=$?
	[ $status = 4 ] || fail "$name" "exit status $status instead of 4 (unreachable)"
	[ $(($(date +%s) - begun)) -le 15 ] || fail "$name" "it took $(($(date +%s) - begun)) s"
	grep -E '^fatal: \[testhost\]: UNREACHABLE' "$WORK/$name.log" | grep -qE "\"msg\": \"[^\"]*($reason)" ||
		fail "$name" "the message does not say why"
	say "$name: $(sed -n 's/^fatal: .*"msg": "\([^"]*\)".*/\1/p' "$WORK/$name.log")"
}

# family PID: itself and its descendants; a worker of newer cores has a session of its own.
family() {
	local child
	echo "$1"
	for child in $(ps -o pid= --ppid "$1"); do family "$child"; done
}

# An aborted playbook (SIGKILL for all of it, as Zuul does it) leaves nothing running in the pod.
play_playbook_killed() {
	local leader
	new_pod "$1"
	inventory >"$WORK/playbook_killed.yaml" <<<"testhost $1"
	start_playbook playbook_killed loss "$WORK/playbook_killed.yaml"
	leader=$!
	poll 60 runs_in "$1" 'sleep 86397' || fail playbook_killed "the module did not start"
	# shellcheck disable=SC2046
	kill -KILL $(family "$leader")
	wait "$leader" 2>/dev/null || :
	expect_nothing_left "$1"
}

play_no_python() {
	printf '#!/bin/sh\necho "got $1"\nid -un\n' >"$WORK/script.sh"
	IMAGE=${PODBRIDGE_TEST_BUSYBOX_IMAGE:-localhost/podbridge-test/busybox:1} new_pod "$1"
	inventory >"$WORK/no_python.yaml" <<<"testhost $1"
	playbook no_python no_python "$WORK/no_python.yaml"
}

# The same through oc.py and the variables of community.okd.oc.
play_oc() {
	new_pod "$1"
	PREFIX=oc PLUGIN=oc inventory >"$WORK/oc.yaml" <<<"testhost $1"
	playbook oc ping "$WORK/oc.yaml"
}

runs_in() { in_pod "$1" ps -e -o args= | grep -qFx "$2"; }

expect_nothing_left() {
	poll 15 no_strangers "$1" || { strangers "$1" >&2; die "processes are left in pod $1"; }
}

fail() {
	tail -n 40 "$WORK/$1.log" >&2
	die "failed: $1: $2"
}
