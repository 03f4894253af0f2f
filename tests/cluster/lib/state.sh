# State of a cluster, shared by the parts of `cluster`: messages, the files of the state directory, and the processes of the cluster.
#
# $STATE/name       NAME, also the name of the network namespace and the cgroup
# $STATE/env        the settings printed by `cluster env`
# $STATE/external   present when the cluster is external (PODBRIDGE_TEST_KUBECONFIG)
# $STATE/made       directories of the machine that `up` had to create
# $STATE/sysctl     machine-wide settings as they were before `up`
# $STATE/run        all data of the cluster

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Directories with fixed names that containerd, the CNI library and the kubelet use. The cluster mounts its own ones over them.
MACHINE_DIRS="/var/lib/cni /run/containerd /var/lib/kubelet /var/log/pods /var/log/containers"

# Settings that the kubelet would change for the whole machine. The cluster mounts ordinary files over them.
MACHINE_SYSCTLS="vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes"

# Prints the current values of those settings.
sysctls() {
	local f
	for f in $MACHINE_SYSCTLS; do
		[ ! -e "/proc/sys/$f" ] || echo "$f $(cat "/proc/sys/$f")"
	done
}

# Prints the roots of all cgroup hierarchies, of version 1 and 2.
cgroup_roots() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts | sort -u; }

# Prints all cgroups of the cluster, the innermost first.
cluster_cgroups() {
	local r
	for r in $(cgroup_roots); do
		[ ! -d "$r/$NAME" ] || find "$r/$NAME" -depth -type d
	done
}

# is_cluster_process PID: true for every process that `up` starts and all their children, as they are in the cgroup NAME.
is_cluster_process() { grep -qE ":/(.*/)?$NAME(/|\$)" "/proc/$1/cgroup" 2>/dev/null; }

# Prints the pids of the cluster's processes, without zombies: those have ended and wait for their parent.
cluster_pids() {
	local p
	for p in $(grep -lE ":/(.*/)?$NAME(/|\$)" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3); do
		is_zombie "$p" || [ ! -e "/proc/$p" ] || echo "$p"
	done
}

is_zombie() { grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

# wait_for SECONDS COMMAND…: repeats COMMAND until it succeeds; fails after SECONDS.
wait_for() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $deadline ] || return 1
		sleep 0.2
	done
}

# kube ARGUMENT…: runs kubectl on the cluster of $STATE/env.
kube() {
	if [ -n "$NETNS" ]; then
		nsenter --net="$NETNS" "$KUBECTL" --kubeconfig "$KUBECONFIG" "$@"
	else
		"$KUBECTL" --kubeconfig "$KUBECONFIG" "$@"
	fi
}

# Writes NETNS, KUBECTL, KUBECONFIG and NAMESPACE to $STATE/env.
write_env() {
	printf '%s\n' "NETNS=$NETNS" "KUBECTL=$KUBECTL" "KUBECONFIG=$KUBECONFIG" "NAMESPACE=$NAMESPACE" >"$STATE/env.new"
	mv "$STATE/env.new" "$STATE/env"
}

# Reads these variables from $STATE/env; no shell evaluates the values.
read_env() {
	local k v
	NETNS='' KUBECTL='' KUBECONFIG='' NAMESPACE=''
	while IFS='=' read -r k v; do
		case $k in NETNS | KUBECTL | KUBECONFIG | NAMESPACE) printf -v "$k" %s "$v" ;; esac
	done <"$STATE/env"
}
