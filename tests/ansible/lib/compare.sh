# The command `compare`: runs one play with kubernetes.core.kubectl as Zuul configures it, and with podbridge, each in a fresh
# pod, and compares the results; then checks a host that opts out. `../run` sources this file.

run_compare() {
	local side pod files=$WORK/files
	[ "$PLACE" = cluster ] || die "compare needs the cluster; run it without PLACE=local"
	mkdir -p "$files/tree/sub dir"
	printf '#!/bin/sh\necho "$#:$1:$2"; cat\n' >"$files/script.sh"
	printf '#!/bin/sh\necho bad >&2; exit 5\n' >"$files/fails.sh"
	head -c 20000000 /dev/urandom >"$files/large"
	: >"$files/empty"
	printf 'x' >"$files/tree/ä file"
	printf 'y' >"$files/tree/sub dir/y"
	printf 'Hello {{ marker }} {{ ansible_facts.distribution }}\n' >"$files/template.j2"
	for side in stock podbridge; do
		pod=compare-$side-${CORE/./-}
		new_pod "$pod"
		inventory >"$WORK/$side.yaml" <<<"testhost $pod"
		mkdir "$WORK/fetched-$side"
		(
			export ANSIBLE_STDOUT_CALLBACK=ansible.posix.json ANSIBLE_COLLECTIONS_PATH=$COLLECTIONS
			# As in Zuul, the connection is called `kubectl`, and only the plugin path decides which plugin that is.
			[ $side = podbridge ] || { unset ANSIBLE_CONNECTION_PLUGINS && PATH=$(dirname "$KUBECTL"):$PATH; }
			ansible-playbook -i "$WORK/$side.yaml" "$HERE/plays/compare.yml" -e "work=$WORK fetched=$WORK/fetched-$side" \
				>"$WORK/$side.json" 2>"$WORK/$side.log" </dev/null || :
		)
	done
	if ! "$VENV/bin/python" "$HERE/lib/compare.py" "$WORK/stock.json" "$WORK/podbridge.json"; then
		tail -n 5 "$WORK/stock.log" "$WORK/podbridge.log" >&2
		die "the results differ"
	fi
	cmp "$WORK/fetched-podbridge/large" "$files/large" || die "the fetched file differs"
	check_opt_out
}

# Checks that a host with ansible_podbridge=false uses the stock plugin and starts no bridge.
check_opt_out() {
	local pod=opted-out-${CORE/./-}
	new_pod "$pod"
	inventory >"$WORK/opted-out.yaml" <<<"testhost $pod"
	(
		export ANSIBLE_COLLECTIONS_PATH=$COLLECTIONS PATH=$(dirname "$KUBECTL"):$PATH PODBRIDGE_DIR=$WORK/none
		run_logged opted-out ansible-playbook -vvv -i "$WORK/opted-out.yaml" "$HERE/plays/ping.yml" -e ansible_podbridge=false
	)
	grep -qE "EXEC .*kubectl.*exec.*$pod" "$WORK/opted-out.log" || fail opted-out "the stock plugin was not used"
	[ ! -e "$WORK/none" ] || fail opted-out "a bridge was started"
}
