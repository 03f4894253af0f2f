# `cluster restart-api`: kills the API server and starts it again with the same arguments.

cluster_restart_api() {
	local pid arguments r
	[ -s "$STATE/run/pid/kube-apiserver" ] || die "the API server runs on an external cluster (PODBRIDGE_TEST_KUBECONFIG) and cannot be restarted"
	NAME=$(cat "$STATE/name")
	pid=$(cat "$STATE/run/pid/kube-apiserver")
	mapfile -d '' arguments <"/proc/$pid/cmdline"
	end_and_wait KILL "$pid"
	# shellcheck disable=SC2016
	nsenter --target "$(cat "$STATE/run/pid/etcd")" --mount --net bash -c '
		for r in $1; do echo $$ >"$r/$2/daemons/cgroup.procs"; done
		cd "$3"
		setsid "${@:4}" >>logs/kube-apiserver.log 2>&1 </dev/null 9>&- &
		echo $! >pid/kube-apiserver
	' restart "$(cgroup_roots)" "$NAME" "$STATE/run" "${arguments[@]}"
	for ((r = 0; r < 600; r++)); do
		if nsenter --net="$(sed -n 's/^NETNS=//p' "$STATE/env")" "$STATE/run/bin/kubectl" --kubeconfig "$STATE/run/admin.conf" \
			get --raw /readyz >/dev/null 2>&1; then return; fi
		sleep 0.1
	done
	die "the API server did not answer within 60 s; its log is $STATE/run/logs/kube-apiserver.log"
}
