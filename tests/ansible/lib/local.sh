# Pods for PLACE=local: each is the test image `debian` in Linux namespaces of its own, with the agent as its first process,
# reached over the link `local`. The functions have the names of those in pods.sh, which `../run` sources first.

# Unpacks the image and sets ROOTFS to its directory.
enter_local() {
	local images archive
	images=$(HERE=$ROOT/tests/cluster && . "$HERE/lib/prepare.sh" && ensure_packages $CLUSTER_PACKAGES && ensure_images && echo "$IMAGES")
	archive=$images/debian.tar
	ROOTFS=$CACHE/rootfs/$(basename "$images")
	[ ! -f "$ROOTFS.ready" ] || return 0
	say "unpacking the image debian"
	rm -rf "$ROOTFS"
	mkdir -p "$ROOTFS"
	tar -xOf "$archive" "$(tar -tf "$archive" | grep 'layer.tar$')" | tar -xpf - --numeric-owner -C "$ROOTFS"
	touch "$ROOTFS.ready"
}

declare -A POD_INIT=()

# new_pod NAME [NAMESPACE]: starts a pod and waits for its agent; the pod is removed at the end of the run.
new_pod() {
	local home=$WORK/pods/${2:-one}/$1
	mkdir -p "$home/run"
	ROOTFS=$ROOTFS POD_HOME=$home AGENT=$ROOT/dist/bin/podbridge-agent \
		unshare --mount --pid --net --uts --ipc --fork --kill-child "$HERE/lib/pod-init" 2>"$home/log" >&2 </dev/null &
	POD_INIT[${2:-one}/$1]=$!
	poll 10 test -S "$home/run/agent.sock" || { cat "$home/log" >&2; die "pod $1 did not start; its log is above"; }
}

# kill_container NAME [NAMESPACE], delete_pod NAME [NAMESPACE]: both kill the pod with SIGKILL; a local pod does not restart.
kill_container() { end_pod "${2:-one}/$1"; }
delete_pod() { end_pod "${2:-one}/$1"; }

end_pod() {
	local init=${POD_INIT[$1]:-}
	[ -n "$init" ] || return 0
	unset "POD_INIT[$1]"
	kill -KILL "$init" 2>/dev/null || :
	wait "$init" 2>/dev/null || :
}

# exec_in_pod NAME COMMAND…: runs a command in the pod without podbridge.
exec_in_pod() {
	local child
	child=$(cat "/proc/${POD_INIT[one/$1]}/task/${POD_INIT[one/$1]}/children")
	nsenter --target "${child%% *}" --mount --pid --root --wd "${@:2}"
}

# host_vars POD [NAMESPACE]: prints the inventory variables of a host that is this pod, as YAML.
host_vars() {
	printf '%s: %s\n' ansible_connection "${PLUGIN:-kubectl}" "ansible_${PREFIX:-kubectl}_pod" "$1" \
		"ansible_${PREFIX:-kubectl}_namespace" "${2:-one}" ansible_podbridge_link local \
		ansible_podbridge_agent_socket "$WORK/pods/${2:-one}/$1/run/agent.sock" ansible_python_interpreter /usr/bin/python3
}

remove_pods() {
	local pod
	for pod in "${!POD_INIT[@]}"; do end_pod "$pod"; done
}

pod_is_gone() { [ -z "${POD_INIT[one/$1]:-}" ]; }
