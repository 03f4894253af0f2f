# The play `inventory`: hosts and groups of the inventory plugin for known pods, compared with tests/ansible/inventory/*.golden, and a play on
# these hosts. A service account that may list pods alone makes the inventory. `plays.sh` calls it.

GOLDEN=$HERE/inventory

play_inventory() {
	local file
	ONE=$1-one-$$ TWO=$1-two-$$
	NAMESPACES+=("$ONE" "$TWO")
	mkdir -p "$WORK/collections/ansible_collections/podbridge"
	ln -sfn "$ROOT/ansible" "$WORK/collections/ansible_collections/podbridge/zuul"
	export ANSIBLE_COLLECTIONS_PATH=$WORK/collections ANSIBLE_INVENTORY_ENABLED=podbridge.zuul.pods
	make_inventory_pods
	for file in "$GOLDEN"/*.pods.yaml; do compare_inventory "$(basename "$file" .pods.yaml)"; done
	expect_data_and_no_template
	expect_a_cache
	expect_sentences
	# The hosts work, with a user who may use them.
	inventory_file all "$KUBE_CONFIG"
	run_logged inventory ansible -i "$WORK/all.pods.yaml" all -m ansible.builtin.raw -a hostname
	[ "$(grep -c '| CHANGED' "$WORK/inventory.log")" = 5 ] || fail inventory "not all hosts answered"
}

make_inventory_pods() {
	local namespace token
	for namespace in "$ONE" "$TWO"; do
		kube create namespace "$namespace" >/dev/null
		poll 30 kube -n "$namespace" get serviceaccount default >/dev/null 2>&1
		kube -n "$namespace" create serviceaccount lister >/dev/null
		kube -n "$namespace" create role list-pods --verb=list --resource=pods >/dev/null
		kube -n "$namespace" create rolebinding list-pods --role=list-pods --serviceaccount="$ONE:lister" >/dev/null
	done
	sed "s#HOSTILE#$WORK/hostile#" "$GOLDEN/pods-one.yaml" | kube -n "$ONE" apply -f - >/dev/null
	kube -n "$TWO" apply -f "$GOLDEN/pods-two.yaml" >/dev/null
	for namespace in "$ONE" "$TWO"; do kube -n "$namespace" wait --for=condition=Ready pod -l wait --timeout=60s >/dev/null; done
	token=$(kube -n "$ONE" create token lister)
	sed "s/user: {client-certificate-data.*/user: {token: $token}}]/; s/user: test}/&/" "$KUBE_CONFIG" >"$WORK/lister.conf"
	chmod 600 "$WORK/lister.conf"
}

# inventory_file NAME KUBECONFIG: makes the inventory file of that name.
inventory_file() { sed "s#KUBECONFIG#$2#; s#ONE#$ONE#; s#TWO#$TWO#" "$GOLDEN/$1.pods.yaml" >"$WORK/$1.pods.yaml"; }

compare_inventory() {
	inventory_file "$1" "$WORK/lister.conf"
	ansible-inventory -i "$WORK/$1.pods.yaml" --graph 2>"$WORK/inventory.err" | sed "s/${ONE//-/[-_]}/ONE/g; s/${TWO//-/[-_]}/TWO/g" >"$WORK/$1.graph"
	diff "$GOLDEN/$1.golden" "$WORK/$1.graph" >&2 || { cat "$WORK/inventory.err" >&2; die "the inventory $1 differs from $GOLDEN/$1.golden"; }
}

# host_variable NAME HOST EXPRESSION: prints a variable of a host, as a template prints it.
host_variable() {
	ansible -i "$WORK/$1.pods.yaml" "$2" -m ansible.builtin.debug -a "msg={{ $3 }}" -e ansible_connection=local 2>&1
}

# Who can make a pod must not be able to run code on the controller.
expect_data_and_no_template() {
	local shown
	shown=$(host_variable all "${ONE}_web_main" annotations.hostile)
	[[ $shown = *'{{ lookup('* ]] || die "an annotation is a template: $shown"
	[ ! -e "$WORK/hostile" ] || die "an annotation ran on the controller"
}

# With a cache the API server is asked once, until the cache is flushed.
expect_a_cache() {
	local file=$WORK/cached.pods.yaml
	sed "s#cache: false#cache: true\ncache_plugin: ansible.builtin.jsonfile\ncache_connection: $WORK/cache#" "$WORK/all.pods.yaml" >"$file"
	ansible-inventory -i "$file" --graph >"$WORK/first.graph"
	PODBRIDGE_EXECUTABLE=/no/such ansible-inventory -i "$file" --graph >"$WORK/second.graph"
	diff "$WORK/first.graph" "$WORK/second.graph" >&2 || die "the cached inventory differs"
	! grep -rq "$(sed -n 's/.*token: \([^}]*\)}.*/\1/p' "$WORK/lister.conf")" "$WORK/cache" || die "a token is in the cache"
	PODBRIDGE_EXECUTABLE=/no/such ansible-playbook -i "$file" --flush-cache --list-hosts "$HERE/plays/ping.yml" >"$WORK/flushed.log" 2>&1 || :
	tr '\n' ' ' <"$WORK/flushed.log" | grep -q 'cannot run */no/such' || { cat "$WORK/flushed.log" >&2; die "the cache is not flushed"; }
}

# expect_sentence PATTERN LINE…: an inventory file with these further lines fails with a sentence that matches PATTERN.
expect_sentence() {
	local pattern=$1
	shift
	{ printf 'plugin: podbridge.zuul.pods\n' && printf '%s\n' "$@"; } >"$WORK/bad.pods.yaml"
	ANSIBLE_INVENTORY_UNPARSED_FAILED=true ansible-inventory -i "$WORK/bad.pods.yaml" --graph >"$WORK/bad.log" 2>&1 && die "no error: $*"
	tr '\n' ' ' <"$WORK/bad.log" | grep -qE "$pattern" || { cat "$WORK/bad.log" >&2; die "no sentence like /$pattern/ for: $*"; }
}
expect_sentences() {
	expect_sentence 'not allowed to list pods in namespace kube-system' "kubeconfig: $WORK/lister.conf" "namespaces: [kube-system]"
	expect_sentence 'not allowed to list pods in namespace \(all\)' "kubeconfig: $WORK/lister.conf" "all_namespaces: true"
	expect_sentence 'context.*nosuch' "kubeconfig: $WORK/lister.conf" "context: nosuch"
	expect_sentence '/no/such' "kubeconfig: /no/such"
	expect_sentence 'unable to parse requirement' "kubeconfig: $WORK/lister.conf" "namespaces: [$ONE]" "label_selectors: ['a in (']"
	expect_sentence 'cannot run /no/such: .*podbridge_executable' "podbridge_executable: /no/such"
	expect_sentence 'Kubernetes|name of a pod or namespace' "kubeconfig: $WORK/lister.conf" "namespaces: ['../x']"
}
