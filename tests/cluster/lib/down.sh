# `cluster down`: ends the processes of the cluster by pid, removes what `up` made, and lists what is left.

# end_and_wait SIGNAL PID…: sends the signal to those of the cluster's processes and waits up to 10 seconds for their end.
end_and_wait() {
	local s=$1 p i
	shift
	for p in "$@"; do
		if is_cluster_process "$p"; then kill "-$s" "$p" 2>/dev/null || :; fi
	done
	for ((i = 0; i < 100; i++)); do
		for p in "$@"; do
			if is_cluster_process "$p" && ! is_zombie "$p"; then
				sleep 0.1
				continue 2
			fi
		done
		return 0
	done
}

end_daemon() {
	[ ! -s "$STATE/run/pid/$1" ] || end_and_wait TERM "$(cat "$STATE/run/pid/$1")"
}

# Ends the kubelet first, because it restarts containers that end. The shims of containerd end with their tasks.
end_processes() {
	local ctr="timeout 20 $STATE/run/bin/ctr -a $STATE/run/containerd.sock -n k8s.io" t
	end_daemon kubelet
	if [ -S "$STATE/run/containerd.sock" ]; then
		for t in $($ctr task ls -q 2>/dev/null || :); do
			$ctr task rm -f "$t" >/dev/null 2>&1 &
		done
		wait
	fi
	for t in kube-scheduler kube-controller-manager kube-apiserver etcd containerd; do end_daemon $t; done
	# shellcheck disable=SC2046
	end_and_wait TERM $(cluster_pids)
	# shellcheck disable=SC2046
	end_and_wait KILL $(cluster_pids)
}

remove_netns() {
	local n=/run/netns/$NAME
	while grep -q " $n " /proc/self/mounts && umount "$n"; do :; done
	rm -f "$n"
}

remove_cgroups() {
	local d i
	for ((i = 0; i < 20; i++)); do
		cluster_cgroups | while read -r d; do rmdir "$d" 2>/dev/null || :; done
		[ -n "$(cluster_cgroups)" ] || return 0
		sleep 0.1
	done
}

# Removes the directories that `up` created on the machine, unless another cluster has mounted its own ones over them: the kernel
# would remove those mounts with the directory.
remove_machine_dirs() {
	local d
	[ -f "$STATE/made" ] || return 0
	sort -r "$STATE/made" | while read -r d; do
		! grep -qsE "^([^ ]+ ){4}$d(/[^ ]*)? " /proc/[0-9]*/mountinfo || continue
		rmdir "$d" 2>/dev/null || :
	done
}

# Prints the processes of the cluster that are left, one per line. The network namespace must still be held then: after its end the
# kernel may give its inode number to the namespace of another cluster's pod.
left_processes() {
	local p n=/run/netns/$NAME
	for p in $(cluster_pids); do echo "process $p: $(tr '\0' ' ' <"/proc/$p/cmdline")"; done
	[ -e "$n" ] || return 0
	for p in /proc/[0-9]*; do
		[ ! "$p/ns/net" -ef "$n" ] || echo "process ${p#/proc/} in the network namespace: $(tr '\0' ' ' <"$p/cmdline")"
	done
}

# Prints everything else of the cluster that is left, one item per line.
leftovers() {
	awk -v n="/$NAME" -v d="$STATE/" '$2 ~ n "(/|$)" || index($2, d) == 1 {print "mount " $2}' /proc/self/mounts
	[ ! -e "/run/netns/$NAME" ] || echo "network namespace $NAME"
	cluster_cgroups | sed 's/^/cgroup /'
	if [ -f "$STATE/sysctl" ]; then
		sysctls | diff "$STATE/sysctl" - | sed -n 's/^> /sysctl /p' || :
	fi
	[ ! -d /var/lib/cni ] || find /var/lib/cni -name "*$NAME*" | sed 's/^/CNI state /'
	[ ! -d "$STATE/run" ] || echo "directory $STATE/run"
}

down_external() {
	read_env
	say "removing the namespace $NAMESPACE"
	kube delete namespace "$NAMESPACE" "$NAMESPACE-b" --ignore-not-found --wait --timeout=120s >&2 ||
		die "the namespaces $NAMESPACE and $NAMESPACE-b could not be deleted"
	rm -rf "$STATE/run"
}

cluster_down() {
	local left
	[ -f "$STATE/name" ] || return 0
	NAME=$(cat "$STATE/name")
	if [ -f "$STATE/external" ]; then
		[ ! -f "$STATE/env" ] || down_external
	else
		end_processes
		left=$(left_processes)
		remove_netns
		remove_cgroups
		remove_machine_dirs
		rm -rf --one-file-system "$STATE/run"
		left+=${left:+$'\n'}$(leftovers)
		if [ -n "$left" ]; then
			say "left behind:"
			printf '%s\n' "$left" >&2
			exit 1
		fi
	fi
	rm -f "$STATE/env" "$STATE/external" "$STATE/made" "$STATE/sysctl" "$STATE/name"
}
