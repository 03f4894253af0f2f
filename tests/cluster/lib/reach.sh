# Checks that every container and name that kubectl takes is reached, and that hiccups of the API server are survived. Part of ../check,
# which reads this file. A kind of input has one table; a row is one line of it.

# Pods of this file: `reach` has a sidecar and an ephemeral container, `reach-prep` has an init container that runs.
create_reach_pods() {
	local image='image: localhost/podbridge-test/debian:1, imagePullPolicy: IfNotPresent'
	local wait='["/bin/sh", "-c", "trap \"exit 0\" TERM; while :; do sleep 3600 & wait $!; done"]'
	kube apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: reach, labels: {app: reach}}
		spec:
		  automountServiceAccountToken: false
		  terminationGracePeriodSeconds: 20
		  initContainers:
		    - {name: side, restartPolicy: Always, $image, command: $wait}
		  containers:
		    - {name: main, $image, command: ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"]}
		---
		apiVersion: v1
		kind: Pod
		metadata: {name: reach-prep, labels: {app: prep}}
		spec:
		  automountServiceAccountToken: false
		  terminationGracePeriodSeconds: 0
		  initContainers:
		    - {name: prep, $image, command: $wait}
		  containers:
		    - {name: main, $image, command: $wait}
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: reach}
		spec:
		  replicas: 0
		  selector: {matchLabels: {app: reach}}
		  template: {metadata: {labels: {app: reach}}, spec: {containers: [{name: main, image: none}]}}
		---
		apiVersion: apps/v1
		kind: ReplicaSet
		metadata: {name: reach}
		spec:
		  replicas: 0
		  selector: {matchExpressions: [{key: app, operator: In, values: [reach]}]}
		  template: {metadata: {labels: {app: reach}}, spec: {containers: [{name: main, image: none}]}}
		---
		apiVersion: v1
		kind: Service
		metadata: {name: reach}
		spec: {selector: {app: reach}, ports: [{port: 80}]}
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: reach-late}
		spec:
		  replicas: 0
		  selector: {matchLabels: {app: reach-late}}
		  template: {metadata: {labels: {app: reach-late}}, spec: {containers: [{name: main, image: none}]}}
	END
	kube wait --for=condition=Ready pod/reach --timeout=60s >/dev/null
	until kube exec reach-prep -c prep -- true 2>/dev/null; do sleep 0.2; done
}
delete_reach_pods() {
	kube delete --ignore-not-found --wait=false --grace-period=0 --force pod/reach pod/reach-prep >/dev/null 2>&1
	kube delete --ignore-not-found deploy/reach deploy/reach-late rs/reach svc/reach pod/reach-late --force --grace-period=0 >/dev/null 2>&1
}

# Each container that kubectl reaches, by each name that kubectl takes: the host name and the container's own mark are those of kubectl.
check_reach() {
	local arguments expected got
	create_reach_pods
	kube debug reach --image=localhost/podbridge-test/debian:1 --image-pull-policy=IfNotPresent --profile=general -c debug --quiet -- sleep 3600 >/dev/null
	until kube exec reach -c debug -- true 2>/dev/null; do sleep 0.2; done
	for arguments in 'reach' 'reach -c main' 'reach -c side' 'reach -c debug' 'reach-prep -c prep' 'pod/reach' 'po/reach -c side' 'pods/reach' \
		'deploy/reach' 'deployment/reach' 'deployments.apps/reach -c side' 'rs/reach' 'svc/reach' 'service/reach'; do
		# shellcheck disable=SC2086 # words
		expected=$(kube exec $arguments -- sh -c 'hostname; readlink /proc/self/ns/mnt' 2>/dev/null)
		# shellcheck disable=SC2086
		got=$(exec_in_pod $arguments -- sh -c 'hostname; readlink /proc/self/ns/mnt') || die "reach: exec $arguments ends with $?"
		[ "$got" = "$expected" ] || die "reach: exec $arguments is in $got, kubectl in $expected"
	done
	expect_failure 221 'cronjob/x' exec -n "$NAMESPACE" cronjob/x -- true
	expect_failure 228 'deployments.apps "absent"' exec -n "$NAMESPACE" deploy/absent -- true
	podbridge cp "$WORK/file" "$NAMESPACE/reach:/tmp/copied"
	podbridge cp "$NAMESPACE/reach:/tmp/copied" "$WORK/back"
	cmp "$WORK/file" "$WORK/back"
	mkdir -p "$WORK/tree"
	cp "$WORK/file" "$WORK/tree/file"
	podbridge sync -q "$WORK/tree/" "$NAMESPACE/reach:/tmp/tree"
	podbridge sync -q -n "$NAMESPACE-b" "$NAMESPACE/reach:/tmp/tree/" "$WORK/tree-back"
	cmp "$WORK/file" "$WORK/tree-back/file"
	expect_failure 228 'nosuch' cp -q "$WORK/file" "nosuch/reach:/tmp/copied"
	wait_for_pods
	# A pod that is being deleted serves until it ends; then the name means another pod.
	kube delete pod reach --wait=false >/dev/null
	[ "$(exec_in_pod reach -- hostname)" = reach ] || die "reach: a pod that is being deleted is not reached"
	[ "$(exec_in_pod deploy/reach -- hostname)" = reach ] || die "reach: a deployment whose pod is being deleted is not reached"
	kube label pod busybox app=reach --overwrite >/dev/null
	got=$(exec_in_pod deploy/reach -- hostname)
	expected=$(kube exec deploy/reach -- hostname)
	kube label pod busybox app=podbridge-test --overwrite >/dev/null
	[ "$got" = "$expected" ] || die "reach: a new command of deploy/reach runs in $got, kubectl's in $expected"
	delete_reach_pods
	report_passed "every container and name that kubectl reaches"
}

# --pod-running-timeout counts instead of the connect timeout: until the object has a pod, and until that pod runs.
wait_for_pods() {
	local variables="\"ansible_kubectl_namespace\": \"$NAMESPACE\", \"ansible_podbridge_connect_timeout\": 3" out
	out=$(plugin "{\"ansible_kubectl_pod\": \"deploy/reach-late\", \"ansible_kubectl_extra_args\": \"--pod-running-timeout=1s\", $variables}" hostname)
	[[ $out = *'has no pod'* ]] || die "reach: a deployment without pods: $out"
	plugin "{\"ansible_kubectl_pod\": \"deploy/reach-late\", \"ansible_kubectl_extra_args\": \"--pod-running-timeout=2m\", $variables}" hostname >"$WORK/late" &
	# Longer than the connect timeout.
	sleep 5
	kube apply -f - >/dev/null <<-END
		apiVersion: v1
		kind: Pod
		metadata: {name: reach-late, labels: {app: reach-late}}
		spec:
		  automountServiceAccountToken: false
		  terminationGracePeriodSeconds: 0
		  initContainers:
		    - {name: prep, image: localhost/podbridge-test/debian:1, imagePullPolicy: IfNotPresent, command: [sleep, "5"]}
		  containers:
		    - {name: main, image: localhost/podbridge-test/debian:1, imagePullPolicy: IfNotPresent, command: ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]}
	END
	wait $!
	[[ $(cat "$WORK/late") = *'"reach-late\n"'* ]] || die "reach: a deployment whose pod came later: $(cat "$WORK/late")"
}

# A container that the kubelet starts again is waited for.
check_restarts() {
	local status=0
	create_short_lived_pod
	exec_in_pod short-lived -- true
	exec_in_pod short-lived -- kill -KILL 1 2>/dev/null || :
	exec_in_pod short-lived -- sh -c 'kill -TERM 1; sleep 5' 2>/dev/null || :
	podbridge exec -n "$NAMESPACE" --connect-timeout 60 short-lived -- true 2>"$WORK/err" || status=$?
	[ $status = 0 ] || die "restarts: the command after a crash ends with $status ($(cat "$WORK/err"))"
	kube delete pod short-lived --force --grace-period=0 --wait=false >/dev/null 2>&1
	report_passed "a restarted container is waited for"
}

# The link kubectl, chosen and as the last one of `auto`: a role that allows `create` of pods/exec alone.
check_kubectl_link() {
	local -x PATH="${KUBECTL%/*}:$PATH"
	local token link
	[ "$(podbridge exec -i -n "$NAMESPACE" --link kubectl debian -- sh -c 'cat; exit 0' <<<in)" = in ] || die "kubectl link: a command's input is lost"
	podbridge cp -n "$NAMESPACE" --link kubectl "$WORK/file" debian:/tmp/copy
	podbridge cp -n "$NAMESPACE" --link kubectl debian:/tmp/copy "$WORK/back"
	cmp "$WORK/file" "$WORK/back"
	podbridge status -n "$NAMESPACE" --link kubectl debian | grep -q 'kubectl for control is up' || die "kubectl link: status does not name it"
	podbridge exec -n "$NAMESPACE" --link kubectl debian -- rm /tmp/copy
	podbridge stop -n "$NAMESPACE" --link kubectl debian
	kube apply -f - >/dev/null <<-END
		{"apiVersion": "v1", "kind": "List", "items": [
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "creator"}},
		{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "creator"}, "rules": [
		{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
		{"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}]},
		{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "creator"},
		"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "creator"},
		"subjects": [{"kind": "ServiceAccount", "name": "creator"}]}]}
	END
	token=$(kube create token creator)
	kube config view --raw --minify -o json | python3 -c '
import json, sys
config = json.load(sys.stdin)
config["users"][0]["user"] = {"token": sys.argv[1]}
json.dump(config, open(sys.argv[2], "w"))' "$token" "$WORK/creator"
	[ "$(podbridge exec --kubeconfig "$WORK/creator" -n "$NAMESPACE" debian -- echo here)" = here ] || die "kubectl link: create alone does not serve"
	link=$(podbridge status --kubeconfig "$WORK/creator" -n "$NAMESPACE" debian)
	grep -qE "(kubectl|direct) for control is up" <<<"$link" || die "kubectl link: status says $link"
	podbridge stop --kubeconfig "$WORK/creator" -n "$NAMESPACE" debian
	kube delete serviceaccount/creator role/creator rolebinding/creator >/dev/null
	report_passed "links through the stock kubectl"
}

stop_hiccups() {
	kill "$HICCUPS"
	wait "$HICCUPS" 2>/dev/null || :
	HICCUPS=
}

# Each row: the plan of the server in front of the API server, the exit code of podbridge, and the seconds that it may take, from and to.
check_hiccups() {
	local plan code from to port=18443 started took status variables
	while IFS='|' read -r plan code from to; do
		[ -n "$plan" ] || continue
		# shellcheck disable=SC2086 # steps
		python3 "$HERE/lib/hiccups.py" "$KUBECONFIG" $port $plan >"$WORK/hiccups" 2>&1 &
		HICCUPS=$!
		[[ $plan = late* ]] || until (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.05; done
		started=$(date +%s%N)
		status=0
		podbridge exec --server "http://127.0.0.1:$port" --link exec-proxy --connect-timeout 8 -n "$NAMESPACE" debian -- true 2>"$WORK/err" || status=$?
		took=$((($(date +%s%N) - started) / 1000000))
		podbridge stop --server "http://127.0.0.1:$port" --link exec-proxy -n "$NAMESPACE" debian 2>/dev/null || :
		stop_hiccups
		[ $status = "$code" ] || die "hiccups: $plan: $status ($(cat "$WORK/err")), $(cat "$WORK/hiccups")"
		[ $took -ge "$from" ] && [ $took -le "$to" ] || die "hiccups: $plan took $took ms, not $from to $to"
		port=$((port + 1))
	done <<-END
		pass|0|0|6000
		429:2|0|2000|7000
		429:1 429:1|0|2000|7000
		500|0|0|6000
		503 503:1|0|1000|7000
		exec=dial|0|0|6000
		exec=429:1|0|1000|7000
		exec=503|0|0|6000
		reset|0|0|6000
		cut|0|0|6000
		exec=reset|0|0|6000
		late:2|0|1500|8000
		429:60|225|0|2000
		401|226|0|2000
		403|227|0|2000
		404|228|0|2000
		exec=403|227|0|2500
	END
	# The same through the plugin, where nothing of it is an unreachable host.
	for plan in 429:1 500 exec=dial reset; do
		# shellcheck disable=SC2086 # steps
		python3 "$HERE/lib/hiccups.py" "$KUBECONFIG" $port $plan >"$WORK/hiccups" 2>&1 &
		HICCUPS=$!
		until (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.05; done
		variables="\"ansible_kubectl_pod\": \"debian\", \"ansible_kubectl_namespace\": \"$NAMESPACE\", \"ansible_podbridge_link\": \"exec-proxy\""
		plugin "{$variables, \"ansible_kubectl_host\": \"http://127.0.0.1:$port\"}" 'echo here' >"$WORK/out"
		stop_hiccups
		grep -q '"here' "$WORK/out" || die "hiccups: $plan through the plugin: $(cat "$WORK/out" "$WORK/hiccups")"
		port=$((port + 1))
	done
	podbridge stop --all
	report_passed "hiccups of the API server"
}
