# This file owns the cluster as the tier sees it: settings, fresh pods, and the proof that nothing is left.

# Run again inside the cluster's network namespace, and set KUBECTL, KUBE_CONFIG, NAMESPACE.
enter_cluster() {
	local key value netns=''
	while IFS='=' read -r key value; do
		case $key in
		NETNS) netns=$value ;;
		KUBECTL) KUBECTL=$value ;;
		KUBECONFIG) KUBE_CONFIG=$value ;;
		NAMESPACE) NAMESPACE=$value ;;
		esac
	done < <("$ROOT/tests/cluster/cluster" env) || die "no cluster; start one with: make cluster-up"
	[ -n "${NAMESPACE:-}" ] || die "no cluster; start one with: make cluster-up"
	if [ -n "$netns" ] && [ "$(stat -Lc %i /proc/self/ns/net)" != "$(stat -Lc %i "$netns")" ]; then
		exec nsenter --net="$netns" "$0" "$command" "$CORE" "${ARGUMENTS[@]}"
	fi
}

kube() { "$KUBECTL" --kubeconfig "$KUBE_CONFIG" -n "$NAMESPACE" "$@"; }

PODS=()

# new_pod NAME [NAMESPACE]: a pod of the image debian, ready; removed at the end.
new_pod() {
	local name=$1 namespace=${2:-$NAMESPACE}
	kube -n "$namespace" apply -f - >/dev/null <<-Y
		apiVersion: v1
		kind: Pod
		metadata: {name: $name, labels: {app: podbridge-test}}
		spec:
		  automountServiceAccountToken: false
		  enableServiceLinks: false
		  restartPolicy: ${RESTART:-Always}
		  terminationGracePeriodSeconds: 1
		  containers:
		    - name: main
		      image: ${PODBRIDGE_TEST_DEBIAN_IMAGE:-localhost/podbridge-test/debian:1}
		      imagePullPolicy: IfNotPresent
		      command: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait \$!; done"]
		      ${LIMITS:+resources: {limits: {memory: $LIMITS\}\}}
	Y
	PODS+=("$namespace/$name")
	kube -n "$namespace" wait --for=condition=Ready "pod/$name" --timeout=60s >/dev/null
}

# The variables of a host that is this pod, for an inventory in YAML.
host_vars() {
	printf '%s: %s\n' ansible_connection kubectl ansible_kubectl_pod "$1" ansible_kubectl_namespace "${2:-$NAMESPACE}" \
		ansible_kubectl_kubeconfig "$KUBE_CONFIG" ansible_python_interpreter /usr/bin/python3
}

# Ends the bridges and pods of this run; fails if a process of ours is left.
finish() {
	local status=$? pid pod left=''
	trap - EXIT
	for pid in $(bridge_pids); do kill "$pid"; done
	for pod in "${PODS[@]}"; do
		kube -n "${pod%/*}" delete pod "${pod#*/}" --ignore-not-found --wait=false >/dev/null
	done
	for ((i = 0; i < 50; i++)); do
		left=$(bridge_pids)
		[ -n "$left" ] || break
		sleep 0.1
	done
	if [ -n "$left" ]; then
		say "bridges are left: $left"
		status=1
	fi
	rm -rf "$WORK"
	exit "$status"
}

# Bridges of this run are the ones with its directory in their environment.
bridge_pids() {
	local process
	for process in /proc/[0-9]*; do
		if grep -qzFx "PODBRIDGE_DIR=$WORK/bridges" "$process/environ" 2>/dev/null &&
			[ "$(basename "$(readlink "$process/exe" 2>/dev/null)")" = podbridge ]; then
			echo "${process#/proc/}"
		fi
	done
}
