# Starts the daemons of the cluster. up.sh runs it in the cluster's network namespace and in a mount namespace that lives as long as the
# daemons:
#   daemons.sh SOURCES STATE NAME KUBERNETES CONTAINERD IMAGES
set -euo pipefail
HERE=$1 STATE=$2 NAME=$3 K8S=$4 CONTAINERD=$5 IMAGES=$6
. "$HERE/lib/state.sh"
D=$STATE/run NODE=podbridge NODE_IP=10.255.0.1
mkdir -p "$D"/{bin,pki,logs,pid,cni,cni-state,etcd,kubelet,pods,plugins,certs,opt,machine,sysctl}
cd "$D"

# start NAME COMMAND…: starts a daemon, with its pid in pid/NAME and its output in logs/NAME.log.
start() {
	local n=$1
	shift
	setsid "$@" >>"logs/$n.log" 2>&1 </dev/null &
	echo $! >"pid/$n"
}

# Moves this process, and so all daemons, into the cgroups of the cluster.
enter_cgroups() {
	local r
	for r in $(cgroup_roots); do echo $$ >"$r/$NAME/daemons/cgroup.procs"; done
}

# Mounts the cluster's own directories and files over MACHINE_DIRS and MACHINE_SYSCTLS.
mount_private_paths() {
	local d f
	for d in $MACHINE_DIRS; do
		mkdir -p "machine$d"
		mount --bind "machine$d" "$d"
	done
	for f in $MACHINE_SYSCTLS; do
		[ -e "/proc/sys/$f" ] || continue
		cat "/proc/sys/$f" >"sysctl/${f//\//.}"
		mount --bind "sysctl/${f//\//.}" "/proc/sys/$f"
	done
}

# certificate FILE SUBJECT: makes pki/FILE.key and pki/FILE.crt, signed by the CA.
certificate() {
	openssl req -newkey rsa:2048 -nodes -keyout "pki/$1.key" -out "pki/$1.csr" -subj "$2"
	openssl x509 -req -in "pki/$1.csr" -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -out "pki/$1.crt" -days 30 \
		-extfile <(echo "subjectAltName=IP:127.0.0.1,IP:10.96.0.1,IP:$NODE_IP,DNS:localhost,DNS:kubernetes,DNS:$NODE")
}

# kubeconfig FILE CERTIFICATE: writes a kubeconfig that contains the certificates.
kubeconfig() {
	(umask 077 && cat >"$1") <<-Y
		apiVersion: v1
		kind: Config
		clusters: [{name: test, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: $(base64 -w0 pki/ca.crt)}}]
		users: [{name: test, user: {client-certificate-data: $(base64 -w0 "pki/$2.crt"), client-key-data: $(base64 -w0 "pki/$2.key")}}]
		contexts: [{name: test, context: {cluster: test, user: test}}]
		current-context: test
	Y
}

make_pki() {
	openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/ca.key -out pki/ca.crt -days 30 -subj /CN=podbridge-test
	certificate apiserver /CN=kube-apiserver
	certificate admin /O=system:masters/CN=admin
	certificate kubelet "/O=system:nodes/CN=system:node:$NODE"
	openssl genrsa -out pki/sa.key 2048
}

start_control_plane() {
	start etcd etcd --data-dir etcd --unsafe-no-fsync --listen-peer-urls http://127.0.0.1:2380 \
		--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
	start kube-apiserver bin/kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6443 \
		--bind-address=127.0.0.1 --advertise-address=$NODE_IP --endpoint-reconciler-type=none --cert-dir=certs \
		--tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt \
		--kubelet-client-certificate=pki/admin.crt --kubelet-client-key=pki/admin.key \
		--kubelet-certificate-authority=pki/ca.crt --kubelet-preferred-address-types=InternalIP \
		--service-account-key-file=pki/sa.key --service-account-signing-key-file=pki/sa.key \
		--feature-gates=ImageVolume=true --service-account-issuer=https://podbridge.test --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC
	local c=namespace-controller,serviceaccount-controller,serviceaccount-token-controller
	c+=,root-ca-certificate-publisher-controller,garbage-collector-controller,node-lifecycle-controller
	start kube-controller-manager bin/kube-controller-manager --kubeconfig=admin.conf --leader-elect=false --controllers=$c \
		--service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt
	start kube-scheduler bin/kube-scheduler --kubeconfig=admin.conf --authentication-kubeconfig=admin.conf \
		--authorization-kubeconfig=admin.conf --leader-elect=false
}

start_containerd() {
	cat >cni/10-podbridge.conflist <<-Y
		{"cniVersion": "0.4.0", "name": "$NAME", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
		   "ipam": {"type": "host-local", "dataDir": "$D/cni-state",
		            "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
	Y
	# A registry in a pod, at port 5000 and without TLS: a job makes it, and the node pulls from it.
	mkdir -p registries/10.244.0.{2..254}:5000
	local i
	for i in {2..254}; do
		printf '[host."http://10.244.0.%d:5000"]\n  capabilities = ["pull", "resolve"]\n' "$i" >"registries/10.244.0.$i:5000/hosts.toml"
	done
	# restrict_oom_score_adj: without the capability to lower oom_score_adj, runc would fail to start a pod.
	cat >containerd.toml <<-Y
		version = 2
		# The socket of NRI would be in /run of the machine.
		disabled_plugins = ["io.containerd.nri.v1.nri"]
		root = "$D/containerd/root"
		state = "$D/containerd/state"
		[grpc]
		  address = "$D/containerd.sock"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$D/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "localhost/podbridge-test/pause:1"
		  restrict_oom_score_adj = true
		  netns_mounts_under_state_dir = true
		  [plugins."io.containerd.grpc.v1.cri".registry]
		    config_path = "$D/registries"
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$D/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "overlayfs"
		    default_runtime_name = "runc"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		      runtime_type = "io.containerd.runc.v2"
	Y
	start containerd env "PATH=$D/bin:$PATH" bin/containerd --config containerd.toml
	local ctr="bin/ctr -a $D/containerd.sock -n k8s.io"
	wait_for 30 $ctr version
	for i in pause busybox debian; do $ctr images import "$IMAGES/$i.tar" >>logs/import.log 2>&1; done
}

start_kubelet() {
	cat >kubelet.yaml <<-Y
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		featureGates: {ImageVolume: true}
		cgroupDriver: cgroupfs
		cgroupRoot: /$NAME
		enforceNodeAllocatable: []
		failSwapOn: false
		failCgroupV1: false
		makeIPTablesUtilChains: false
		address: $NODE_IP
		tlsCertFile: $D/pki/kubelet.crt
		tlsPrivateKeyFile: $D/pki/kubelet.key
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $D/pki/ca.crt}}
		authorization: {mode: Webhook}
		containerRuntimeEndpoint: unix://$D/containerd.sock
		podLogsDir: $D/pods
		volumePluginDir: $D/plugins
		evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%"}
		imageMinimumGCAge: 100h
	Y
	start kubelet bin/kubelet --config kubelet.yaml --kubeconfig kubelet.conf --hostname-override $NODE \
		--node-ip=$NODE_IP --root-dir "$D/kubelet" --cert-dir "$D/certs"
}

kubectl() { bin/kubectl --kubeconfig admin.conf "$@"; }
node_ready() { kubectl get node $NODE | grep -q ' Ready'; }

die_with_log() {
	tail -n 5 logs/"$1".log >&2
	die "$1 failed"
}

enter_cgroups
mount_private_paths
for c in kube-apiserver kube-controller-manager kube-scheduler kubelet; do ln -s "$K8S" bin/$c; done
for c in containerd containerd-shim-runc-v2 ctr; do ln -s "$CONTAINERD/$c" bin/$c; done
# The kubectl in the cluster's binary takes three times as long to start, because it is all of Kubernetes.
ln -s "${STOCK_KUBECTL:-$K8S}" bin/kubectl
(umask 077 && make_pki) >>logs/pki.log 2>&1 || die_with_log pki
kubeconfig admin.conf admin
kubeconfig kubelet.conf kubelet
start_control_plane
start_containerd || die_with_log containerd
wait_for 60 kubectl get --raw /readyz || die_with_log kube-apiserver
start_kubelet
wait_for 60 node_ready || die_with_log kubelet
