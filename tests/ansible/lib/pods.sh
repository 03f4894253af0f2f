# This file owns the cluster as the tier sees it: its settings and fresh pods. local.sh answers to the same names.

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

# new_pod NAME [NAMESPACE]: a pod of the image debian, or of $IMAGE, ready; removed at the end. $SIDECAR is a second container, $SHARED a
# directory of this machine.
new_pod() {
	local name=$1 namespace=${2:-$NAMESPACE} image=${IMAGE:-${PODBRIDGE_TEST_DEBIAN_IMAGE:-localhost/podbridge-test/debian:1}}
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
		      image: $image
		      imagePullPolicy: IfNotPresent
		      command: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait \$!; done"]
		      ${LIMITS:+resources: {limits: {memory: $LIMITS\}\}}
		      ${SHARED:+volumeMounts: [{name: shared, mountPath: $SHARED\}]}
		    ${SIDECAR:+- {name: $SIDECAR, image: $image, imagePullPolicy: IfNotPresent, command: [sleep, infinity]\}}
		  ${SHARED:+volumes: [{name: shared, hostPath: {path: $SHARED\}\}]}
	Y
	PODS+=("$namespace/$name")
	kube -n "$namespace" wait --for=condition=Ready "pod/$name" --timeout=60s >/dev/null
}

# The variables of a host that is this pod, for an inventory in YAML. LINK: how it is reached.
host_vars() {
	local prefix=ansible_${PREFIX:-kubectl}
	printf '%s: %s\n' ansible_connection "${PLUGIN:-kubectl}" "${prefix}_pod" "$1" "${prefix}_namespace" "${2:-$NAMESPACE}" \
		"${prefix}_kubeconfig" "$KUBE_CONFIG" ansible_podbridge_link "${LINK:-auto}" ansible_python_interpreter /usr/bin/python3
}

# kill_container NAME [NAMESPACE]: its first process ends; the kubelet starts another container. Often kubectl dies with it.
kill_container() { kube -n "${2:-$NAMESPACE}" exec "$1" -- kill -TERM 1 2>/dev/null || :; }

# delete_pod NAME [NAMESPACE]: at once, as an eviction does.
delete_pod() { kube -n "${2:-$NAMESPACE}" delete pod "$1" --force --grace-period=0 --wait=false >/dev/null 2>&1; }

# in_pod NAME COMMAND…: not through podbridge.
in_pod() { kube exec "$1" -- "${@:2}"; }

remove_pods() {
	local pod
	for pod in "${PODS[@]}"; do
		kube -n "${pod%/*}" delete pod "${pod#*/}" --ignore-not-found --wait=false >/dev/null
	done
}

pod_is_gone() { ! kube get pod "$1" >/dev/null 2>&1; }
