# `cluster up` and `cluster agent`, as far as they run outside the cluster's namespaces: names, network namespace, cgroups, pods.
# lib/daemons.sh runs inside.

PODS="debian busybox readonly two-containers"

# Whether the cluster runs and every pod executes a command. The status of a pod does not count: it is out of date for seconds after a
# restart.
is_healthy() {
	local p
	[ -f "$STATE/env" ] || return 1
	read_env
	[ -x "$KUBECTL" ] || return 1
	if [ -n "$NETNS" ]; then
		NAME=$(cat "$STATE/name")
		for p in "$STATE"/run/pid/*; do
			is_cluster_process "$(cat "$p")" || return 1
		done
	fi
	for p in $PODS; do
		kube -n "$NAMESPACE" --request-timeout=10s exec "$p" -- true >/dev/null 2>&1 || return 1
	done
}

# apply_pods FILE [OPTION…]: applies the pods, with the replacement images of an external cluster.
apply_pods() {
	local file=$1
	shift
	sed -e "s#localhost/podbridge-test/debian:1#${PODBRIDGE_TEST_DEBIAN_IMAGE:-localhost/podbridge-test/debian:1}#" \
		-e "s#localhost/podbridge-test/busybox:1#${PODBRIDGE_TEST_BUSYBOX_IMAGE:-localhost/podbridge-test/busybox:1}#" \
		"$HERE/$file" | kube apply "$@" -f -
}

make_namespaces() {
	local n
	for n in "$NAMESPACE" "$NAMESPACE-b"; do
		kube create namespace "$n" >/dev/null || die "cannot make the namespace $n"
		wait_for 30 kube -n "$n" get serviceaccount default || die "no service account in $n"
	done
}

# wait_for_exec NAMESPACE POD COMMAND…: waits until COMMAND succeeds in the pod; dies after 120 seconds.
wait_for_exec() {
	local n=$1 p=$2
	shift 2
	wait_for 120 kube -n "$n" exec "$p" -- "$@" || {
		kube -n "$n" get pods,events -o wide >&2 || say "no pods are listed"
		die "pod $p runs no command; the logs of the daemons are in $STATE/run/logs"
	}
}

start_pods() {
	local p
	wait_for 30 apply_pods pods.yaml -n "$NAMESPACE" || apply_pods pods.yaml -n "$NAMESPACE" >&2 || die "the API server refused the pods"
	# A pod of the same name in another namespace.
	apply_pods pods.yaml -n "$NAMESPACE-b" -l pod=debian >/dev/null
	for p in $PODS; do wait_for_exec "$NAMESPACE" "$p" true; done
	wait_for_exec "$NAMESPACE-b" debian true
}

read_running_env() {
	[ -f "$STATE/env" ] || die "no cluster in $STATE"
	read_env
}

# cluster import ARCHIVE…: makes the images of these archives known to the cluster.
cluster_import() {
	local archive
	read_running_env
	[ -n "$NETNS" ] || die "images can be imported only into a cluster that this command started, not into an external one"
	for archive; do
		"$STATE/run/bin/ctr" -a "$STATE/run/containerd.sock" -n k8s.io images import "$archive" >/dev/null || die "cannot import $archive"
	done
}

# cluster agent BINARY: makes the pods of pods-agent.yaml again, with that agent.
cluster_agent() (
	read_running_env
	images=$(mktemp -d "$STATE/run/images.XXXXXX")
	trap 'rm -rf "$images"' EXIT
	"$HERE/../../packaging/images/build" "$images" --image podbridge-agent --version test --binaries "$(uname -m)=$(dirname "$1")" >/dev/null
	cluster_import "$images/podbridge-agent.tar"
	kube -n "$NAMESPACE" delete pod baked brought --ignore-not-found --wait >/dev/null
	apply_pods pods-agent.yaml -n "$NAMESPACE" >/dev/null
	wait_for_exec "$NAMESPACE" baked podbridge-agent version
	wait_for_exec "$NAMESPACE" brought podbridge-agent version
)

# Makes the cgroup NAME in every hierarchy; the part `daemons` is for the daemons, the kubelet manages the rest. The weight is high, as
# other processes of the machine must not starve the pods.
make_cgroups() {
	local r d f
	for r in $(cgroup_roots); do
		mkdir -p "$r/$NAME"
		[ ! -f "$r/$NAME/cpu.shares" ] || echo 16384 >"$r/$NAME/cpu.shares"
		[ ! -f "$r/$NAME/cpu.weight" ] || echo 2000 >"$r/$NAME/cpu.weight"
		for d in "$r/$NAME" "$r/$NAME/daemons"; do
			mkdir -p "$d"
			for f in cpuset.cpus cpuset.mems; do
				[ ! -f "$r/cgroup.procs" ] || [ -f "$r/cgroup.controllers" ] || [ ! -f "$d/$f" ] || cat "${d%/*}/$f" >"$d/$f"
			done
		done
		if [ -s "$r/cgroup.controllers" ]; then
			# A controller that version 1 uses cannot be enabled here; the pods work without it.
			sed 's/[^ ]*/+&/g' "$r/cgroup.controllers" >"$r/$NAME/cgroup.subtree_control" 2>/dev/null || :
		fi
	done
}

make_netns() {
	local in="nsenter --net=$NETNS"
	touch "$NETNS"
	unshare --net="$NETNS" true
	$in ip link set lo up
	# The node's interface is a network bridge without ports, because not every kernel has the type `dummy`.
	$in ip link add node0 type bridge
	$in ip addr add 10.255.0.1/24 dev node0
	$in ip link set node0 up
	$in ip route add default dev node0
}

# Makes the missing directories of the machine and lists them in $STATE/made.
make_machine_dirs() {
	local d p
	for d in $MACHINE_DIRS /run/netns; do
		p=$d
		while [ ! -d "$p" ]; do echo "$p"; p=${p%/*}; done
		mkdir -p "$d"
	done >"$STATE/made"
}

up_external() {
	KUBECONFIG=$(readlink -f "$PODBRIDGE_TEST_KUBECONFIG") NETNS=''
	[ -r "$KUBECONFIG" ] || die "cannot read $PODBRIDGE_TEST_KUBECONFIG"
	KUBECTL=$(command -v kubectl) || {
		ensure_kubernetes
		mkdir -p "$STATE/run/bin"
		ln -sf "$K8S" "$STATE/run/bin/kubectl"
		KUBECTL=$STATE/run/bin/kubectl
	}
	touch "$STATE/external"
	NAMESPACE=$NAME
	write_env
	make_namespaces
	start_pods
}

up_own() {
	[ "$(id -u)" = 0 ] || die "only root can start a cluster; run this as root or set PODBRIDGE_TEST_KUBECONFIG"
	[ ${#STATE} -le 70 ] || die "PODBRIDGE_CLUSTER_DIR is longer than 70 characters, too long for the sockets in it; choose a shorter path"
	case $STATE$CACHE in *[!A-Za-z0-9_./+-]*) die "$STATE or $CACHE contains characters other than A-Z a-z 0-9 _ . / + -; choose other paths" ;; esac
	# shellcheck disable=SC2086 # words
	ensure_packages $CLUSTER_PACKAGES
	ensure_kubernetes
	ensure_containerd
	ensure_images
	sysctls >"$STATE/sysctl"
	make_machine_dirs
	NETNS=/run/netns/$NAME KUBECTL=$STATE/run/bin/kubectl KUBECONFIG=$STATE/run/admin.conf NAMESPACE=podbridge-test
	make_netns
	make_cgroups
	write_env
	nsenter --net="$NETNS" unshare --mount --propagation private \
		bash "$HERE/lib/daemons.sh" "$HERE" "$STATE" "$NAME" "$K8S" "$CONTAINERD" "$IMAGES" 9>&- >&2 ||
		die "the daemons did not start; their logs are in $STATE/run/logs"
	make_namespaces
	start_pods
}

cluster_up() {
	if [ -f "$STATE/name" ]; then
		if is_healthy; then
			cat "$STATE/env"
			return
		fi
		say "the cluster in $STATE does not work: replacing it"
		(cluster_down) || die "cannot remove the old cluster"
	fi
	NAME=podbridge-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
	echo "$NAME" >"$STATE/name"
	if [ -n "${PODBRIDGE_TEST_KUBECONFIG:-}" ]; then up_external; else up_own; fi
	cat "$STATE/env"
}
