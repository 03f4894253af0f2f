# This file owns `cluster down`: it ends the processes of the cluster by pid,
# removes what `up` made, and lists what is left.

# end SIGNAL PID…: and wait up to 10 seconds for them.
end() {
	local s=$1 p i
	shift
	for p in "$@"; do
		if is_ours "$p"; then kill "-$s" "$p" 2>/dev/null || :; fi
	done
	for ((i = 0; i < 100; i++)); do
		for p in "$@"; do
			if is_ours "$p" && ! is_zombie "$p"; then
				sleep 0.1
				continue 2
			fi
		done
		return 0
	done
}

end_daemon() {
	[ ! -s "$STATE/run/pid/$1" ] || end TERM "$(cat "$STATE/run/pid/$1")"
}

# The kubelet first, else it restarts what is being ended; shims leave with their tasks.
end_processes() {
	local ctr="timeout 20 ctr -a $STATE/run/containerd.sock -n k8s.io" t
	end_daemon kubelet
	if [ -S "$STATE/run/containerd.sock" ]; then
		for t in $($ctr task ls -q 2>/dev/null || :); do
			$ctr task rm -f "$t" >/dev/null 2>&1 &
		done
		wait
	fi
	for t in kube-scheduler kube-controller-manager kube-apiserver etcd containerd; do end_daemon $t; done
	# shellcheck disable=SC2046
	end TERM $(cluster_pids)
	# shellcheck disable=SC2046
	end KILL $(cluster_pids)
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

# The directories that `up` created on the machine, when nobody else uses them: another cluster has laid its own ones over them, and
# would lose those with them.
remove_machine_dirs() {
	local d
	[ -f "$STATE/made" ] || return 0
	sort -r "$STATE/made" | while read -r d; do
		! grep -qsE "^([^ ]+ ){4}$d(/[^ ]*)? " /proc/[0-9]*/mountinfo || continue
		rmdir "$d" 2>/dev/null || :
	done
}

# Processes that should not be there any more, one a line; called while the namespace is held, as the kernel gives the number of one
# that is gone to the next, which may be a pod's of another cluster.
left_processes() {
	local p n=/run/netns/$NAME
	for p in $(cluster_pids); do echo "process $p: $(tr '\0' ' ' <"/proc/$p/cmdline")"; done
	[ -e "$n" ] || return 0
	for p in /proc/[0-9]*; do
		[ ! "$p/ns/net" -ef "$n" ] || echo "process ${p#/proc/} in the network namespace: $(tr '\0' ' ' <"$p/cmdline")"
	done
}

# Whatever else should not be there any more, one a line.
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
		die "the namespace $NAMESPACE or $NAMESPACE-b is left"
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
