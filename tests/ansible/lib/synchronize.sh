# This file owns the plays of `synchronize`: unmodified, with rsync in the pod; and without, by our own action.

# Four more hosts: two pods of one name, and two containers of one pod.
play_synchronize() {
	local inventory=$WORK/synchronize.yaml
	new_pod "$1"
	inventory >"$inventory" <<<"testhost $1"
	add_similar_hosts "$1" >>"$inventory"
	with_posix playbook synchronize synchronize "$inventory"
}

# The group similar_hosts: hosts that only their namespace or container tells apart.
add_similar_hosts() {
	local other=two
	[ "$PLACE" = local ] || other=$NAMESPACE-b
	new_pod "$1-same"
	new_pod "$1-same" "$other"
	echo "similar_hosts:"
	inventory <<<"one $1-same"$'\n'"two $1-same $other" | sed 1d
	# A pod of the local tier has one container.
	[ "$PLACE" = cluster ] || return 0
	SIDECAR=side new_pod "$1-both"
	inventory <<<"main $1-both"$'\n'"side $1-both" | sed -e 1,2d -e '/^    side:/a\      ansible_kubectl_container: side'
}

# The pod has no rsync at first; then one beside the agent.
play_synchronize_without() {
	local inventory=$WORK/without.yaml
	new_pod "$1"
	in_pod "$1" mv /usr/bin/rsync /usr/lib/rsync
	inventory >"$inventory" <<<"testhost $1"
	add_similar_hosts "$1" >>"$inventory"
	mkdir -p "$WORK/collections/ansible_collections/podbridge"
	ln -s "$ROOT/ansible" "$WORK/collections/ansible_collections/podbridge/zuul"
	ANSIBLE_ACTION_PLUGINS=$ROOT/ansible/plugins/action with_posix playbook synchronize_without synchronize_without "$inventory"
}

with_posix() { ANSIBLE_COLLECTIONS_PATH=$WORK/collections:$COLLECTIONS "$@"; }
