# This file owns the end of a run, and the second cluster of one that needs it.

OTHER=''

other_cluster() {
	local settings
	OTHER=$(mktemp -d)
	settings=$(on_other up)
	while IFS='=' read -r key value; do export "TIER_OTHER_$key=$value"; done <<<"$settings"
}

on_other() { env -u PODBRIDGE_TEST_KUBECONFIG PODBRIDGE_CLUSTER_DIR="$OTHER" PODBRIDGE_CACHE_DIR="$CACHE" "$ROOT/tests/cluster/cluster" "$1"; }

finish() {
	local status=$?
	trap - EXIT
	[ -n "${KEEP:-}" ] || rm -rf "$TIER_WORK"
	if [ -n "$OTHER" ]; then
		on_other down || status=1
		rm -rf "$OTHER"
	fi
	exit "$status"
}
