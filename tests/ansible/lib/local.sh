# This file owns the tier's pods where there is no cluster: each is the test image `debian` in namespaces of its own, with
# the agent as its first process, reached over the link *local*. It answers to the same names as pods.sh.

# Set ROOTFS to the unpacked image.
enter_local() {
	local images archive
	images=$(HERE=$ROOT/tests/cluster && . "$HERE/lib/prepare.sh" && ensure_packages && ensure_images && echo "$IMAGES")
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

# new_pod NAME [NAMESPACE]: a pod that answers; removed at the end.
new_pod() {
	local home=$WORK/pods/${2:-one}/$1
	mkdir -p "$home/run"
	ROOTFS=$ROOTFS HOME_OF_POD=$home AGENT=$ROOT/dist/bin/podbridge-agent \
		unshare --mount --pid --net --uts --ipc --fork --kill-child "$HERE/lib/pod-init" 2>"$home/log" >&2 </dev/null &
	POD_INIT[${2:-one}/$1]=$!
	poll 10 test -S "$home/run/agent.sock" || { cat "$home/log" >&2; die "pod $1 did not start"; }
}

# kill_container NAME [NAMESPACE], delete_pod NAME [NAMESPACE]: without mercy; a pod here has one life.
kill_container() { end_pod "${2:-one}/$1"; }
delete_pod() { end_pod "${2:-one}/$1"; }

end_pod() {
	local init=${POD_INIT[$1]:-}
	[ -n "$init" ] || return 0
	unset "POD_INIT[$1]"
	kill -KILL "$init" 2>/dev/null || :
	wait "$init" 2>/dev/null || :
}

# in_pod NAME COMMAND…: not through podbridge.
in_pod() {
	local child
	child=$(cat "/proc/${POD_INIT[one/$1]}/task/${POD_INIT[one/$1]}/children")
	nsenter --target "${child%% *}" --mount --pid --root --wd "${@:2}"
}

# The variables of a host that is this pod, for an inventory in YAML.
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
