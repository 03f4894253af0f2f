# This file owns the state of a cluster that the parts of `cluster` share: messages, names inside
# the state directory, and the test whether a process is one of the cluster's.
#
# $STATE/name       NAME, also the name of the network namespace and the cgroup
# $STATE/env        the settings printed by `cluster env`
# $STATE/external   present when the cluster is somebody else's
# $STATE/made       directories of the machine that `up` had to create
# $STATE/sysctl     machine-wide settings as they were before `up`
# $STATE/run        all data of the cluster

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Directories of the machine that containerd, the CNI library and the kubelet
# use by fixed names: the cluster sees its own ones there.
MACHINE_DIRS="/var/lib/cni /run/containerd /var/lib/kubelet /var/log/pods /var/log/containers"

# Settings that the kubelet changes for the whole machine: the cluster sees
# ordinary files in their places.
MACHINE_SYSCTLS="vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes"

sysctls() {
	local f
	for f in $MACHINE_SYSCTLS; do
		[ ! -e "/proc/sys/$f" ] || echo "$f $(cat "/proc/sys/$f")"
	done
}

# The roots of all cgroup hierarchies, version 1 or 2.
cgroup_roots() { awk '$3 == "cgroup" || $3 == "cgroup2" {print $2}' /proc/mounts | sort -u; }

# All cgroups of the cluster, the innermost first.
cluster_cgroups() {
	local r
	for r in $(cgroup_roots); do
		[ ! -d "$r/$NAME" ] || find "$r/$NAME" -depth -type d
	done
}

# is_ours PID: every process that `up` starts, and all their children, are in the cgroup NAME.
is_ours() { grep -qE ":/(.*/)?$NAME(/|\$)" "/proc/$1/cgroup" 2>/dev/null; }

# All living processes of the cluster; a zombie only waits for its parent, which may have come since.
cluster_pids() {
	local p
	for p in $(grep -lE ":/(.*/)?$NAME(/|\$)" /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3); do
		is_zombie "$p" || [ ! -e "/proc/$p" ] || echo "$p"
	done
}

is_zombie() { grep -q '^State:[[:space:]]*Z' "/proc/$1/status" 2>/dev/null; }

# wait_for SECONDS COMMAND…: true as soon as COMMAND is.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.2
	done
}

# kubectl on the cluster of $STATE/env.
kube() {
	if [ -n "$NETNS" ]; then
		nsenter --net="$NETNS" "$KUBECTL" --kubeconfig "$KUBECONFIG" "$@"
	else
		"$KUBECTL" --kubeconfig "$KUBECONFIG" "$@"
	fi
}

# write_env: remember NETNS, KUBECTL, KUBECONFIG and NAMESPACE.
write_env() {
	printf '%s\n' "NETNS=$NETNS" "KUBECTL=$KUBECTL" "KUBECONFIG=$KUBECONFIG" "NAMESPACE=$NAMESPACE" >"$STATE/env.new"
	mv "$STATE/env.new" "$STATE/env"
}

# read_env: the reverse; no shell evaluates the values.
read_env() {
	local k v
	NETNS='' KUBECTL='' KUBECONFIG='' NAMESPACE=''
	while IFS='=' read -r k v; do
		case $k in NETNS | KUBECTL | KUBECONFIG | NAMESPACE) printf -v "$k" %s "$v" ;; esac
	done <"$STATE/env"
}
