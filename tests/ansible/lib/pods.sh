# Pods of the test cluster. local.sh replaces these functions for PLACE=local. `../run` sources this file.

# Sets KUBECTL, KUBE_CONFIG and NAMESPACE; runs the script again inside the cluster's network namespace if it is outside.
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

# Pods (NAMESPACE/NAME) and namespaces that this run makes; they are removed at its end.
PODS=()
NAMESPACES=()

# new_pod NAME [NAMESPACE]: starts a pod and waits until it is ready; the pod is removed at the end of the run. Variables: IMAGE (default:
# debian), SIDECAR (name of a second container), SHARED (a directory of this machine), LIMITS (memory), RESTART (policy).
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

# host_vars POD [NAMESPACE]: prints the inventory variables of a host that is this pod, as YAML. LINK is the link (default: auto);
# WARM_PYTHON=false switches warm Python off.
host_vars() {
	local prefix=ansible_${PREFIX:-kubectl}
	printf '%s: %s\n' ansible_connection "${PLUGIN:-kubectl}" "${prefix}_pod" "$1" "${prefix}_namespace" "${2:-$NAMESPACE}" \
		"${prefix}_kubeconfig" "$KUBE_CONFIG" ansible_podbridge_link "${LINK:-auto}" ansible_python_interpreter /usr/bin/python3 \
		ansible_podbridge_warm_python "${WARM_PYTHON:-true}"
}

# kill_container NAME [NAMESPACE]: ends the container's first process; the kubelet starts a new container. Often kubectl fails then.
kill_container() { kube -n "${2:-$NAMESPACE}" exec "$1" -- kill -TERM 1 2>/dev/null || :; }

# delete_pod NAME [NAMESPACE]: deletes the pod at once, as an eviction does.
delete_pod() { kube -n "${2:-$NAMESPACE}" delete pod "$1" --force --grace-period=0 --wait=false >/dev/null 2>&1; }

# exec_in_pod NAME COMMAND…: runs a command in the pod without podbridge.
exec_in_pod() { kube exec "$1" -- "${@:2}"; }

remove_pods() {
	local pod
	for pod in "${PODS[@]}"; do
		kube -n "${pod%/*}" delete pod "${pod#*/}" --ignore-not-found --wait=false >/dev/null
	done
	[ ${#NAMESPACES[@]} = 0 ] || "$KUBECTL" --kubeconfig "$KUBE_CONFIG" delete namespace "${NAMESPACES[@]}" --ignore-not-found --wait=false >/dev/null
}

pod_is_gone() { ! kube get pod "$1" >/dev/null 2>&1; }
