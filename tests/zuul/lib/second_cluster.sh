# Second cluster for the scenario same_name_pods, and the cleanup of a run. `../run` sources this file.

SECOND_CLUSTER_DIR=''

# Starts the cluster and exports its settings as TIER_SECOND_CLUSTER_*.
start_second_cluster() {
	local settings
	SECOND_CLUSTER_DIR=$(mktemp -d)
	settings=$(on_second_cluster up)
	while IFS='=' read -r key value; do export "TIER_SECOND_CLUSTER_$key=$value"; done <<<"$settings"
}

on_second_cluster() { env -u PODBRIDGE_TEST_KUBECONFIG PODBRIDGE_CLUSTER_DIR="$SECOND_CLUSTER_DIR" PODBRIDGE_CACHE_DIR="$CACHE" "$ROOT/tests/cluster/cluster" "$1"; }

# Trap at the end of `run`.
finish() {
	local status=$?
	trap - EXIT
	[ -n "${KEEP:-}" ] || rm -rf "$TIER_WORK"
	if [ -n "$SECOND_CLUSTER_DIR" ]; then
		on_second_cluster down || status=1
		rm -rf "$SECOND_CLUSTER_DIR"
	fi
	exit "$status"
}
