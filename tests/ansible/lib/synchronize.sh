# Plays of `synchronize`: the stock action with rsync in the pod, and our own action without rsync. `../run` sources this file.

# Runs the stock action for a pod with rsync and for the hosts of add_similar_hosts.
play_synchronize() {
	local inventory=$WORK/synchronize.yaml
	new_pod "$1"
	inventory >"$inventory" <<<"testhost $1"
	add_similar_hosts "$1" >>"$inventory"
	with_posix_collection playbook synchronize synchronize "$inventory"
}

# add_similar_hosts POD: prints the inventory group similar_hosts: two pods of one name, and two containers of one pod.
add_similar_hosts() {
	local other=two
	[ "$PLACE" = local ] || other=$NAMESPACE-b
	new_pod "$1-same"
	new_pod "$1-same" "$other"
	echo "similar_hosts:"
	inventory <<<"one $1-same"$'\n'"two $1-same $other" | sed 1d
	# A local pod has only one container.
	[ "$PLACE" = cluster ] || return 0
	SIDECAR=side new_pod "$1-both"
	inventory <<<"main $1-both"$'\n'"side $1-both" | sed -e 1,2d -e '/^    side:/a\      ansible_kubectl_container: side'
}

# Runs our action for a pod without rsync; the last play installs an rsync beside the agent.
play_synchronize_without() {
	local inventory=$WORK/without.yaml
	new_pod "$1"
	exec_in_pod "$1" mv /usr/bin/rsync /usr/lib/rsync
	inventory >"$inventory" <<<"testhost $1"
	add_similar_hosts "$1" >>"$inventory"
	mkdir -p "$WORK/collections/ansible_collections/podbridge"
	ln -sfn "$ROOT/ansible" "$WORK/collections/ansible_collections/podbridge/zuul"
	ANSIBLE_ACTION_PLUGINS=$ROOT/ansible/plugins/action with_posix_collection playbook synchronize_without synchronize_without "$inventory"
}

with_posix_collection() { ANSIBLE_COLLECTIONS_PATH=$WORK/collections:$COLLECTIONS "$@"; }
