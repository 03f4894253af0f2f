# This file owns how ansible-core's integration targets are run: as ansible-test would, with pods for hosts.

# run_targets TARGET[:plain]…: with and without become, or only without.
run_targets() {
	local target pod=targets-${CORE/./-}-${1//[_:]/-}
	unpack_targets
	as_test_container
	new_pod "$pod"
	{
		echo "testgroup:"
		echo "  hosts:"
		echo "    testhost:"
		host_vars "$pod" | sed 's/^/      /'
		# The target fetch logs in as a user that it has made, and as one that there is not; ours is another variable.
		echo "      ansible_podbridge_user: \"{{ ansible_user | default('') }}\""
	} >"$TARGETS/../inventory"
	for target in "$@"; do
		case $target in
		connection:plain) run_connection "$pod" ;;
		connection)
			run_connection "$pod"
			run_connection "$pod" -b
			;;
		*:plain) run_target "${target%:plain}" ;;
		*)
			run_target "$target"
			run_target "$target" -b
			;;
		esac
		say "target $target passed"
	done
}

# run_connection POD [OPTION…]: both ways of sending a module, under names that need quoting.
run_connection() {
	local inventory=$WORK/connection.yaml name pod=$1
	shift
	{
		echo "kubectl:"
		echo "  hosts:"
		for name in pipelining no-pipelining; do
			echo "    kubectl-$name-ünï:"
			echo "      ansible_pipelining: $([ $name = pipelining ] && echo true || echo false)"
			host_vars "$pod" | sed 's/^/      /'
		done
	} >"$inventory"
	local arguments=(-e target_hosts=kubectl -e action_prefix= -e "local_tmp=$WORK/ansible-local" -e remote_tmp=/tmp/ansible-remote)
	logged "connection$*" env -C "$TARGETS/connection" INVENTORY="$inventory" ./test.sh "${arguments[@]}" "$@"
}

# A home of root that has authorized_keys, as in the test containers of ansible (the target fetch copies them).
as_test_container() {
	mkdir -p "$WORK/root/.ssh"
	touch "$WORK/root/.ssh/authorized_keys"
	awk -F: -v OFS=: -v home="$WORK/root" '$1 == "root" { $6 = home } 1' /etc/passwd >"$WORK/passwd"
	AS_TEST_CONTAINER=(unshare --mount sh -c 'mount --bind "$0" /etc/passwd && exec "$@"' "$WORK/passwd")
}

# run_target NAME [OPTION…]
run_target() {
	local name=$1 directory=$TARGETS/$1
	shift
	mkdir -p "$WORK/output"
	if [ -x "$directory/runme.sh" ]; then
		logged "$name$*" "${AS_TEST_CONTAINER[@]}" env -C "$directory" ANSIBLE_ROLES_PATH="$TARGETS" OUTPUT_DIR="$WORK/output" \
			INVENTORY_PATH=../../inventory ./runme.sh "$@"
		# It links a role, and does so only once.
		find "$directory" -type l -delete
		return
	fi
	cat >"$TARGETS/$name.yaml" <<-Y
		- hosts: testhost
		  gather_facts: true
		  roles:
		    - role: $name
	Y
	logged "$name$*" env -C "$TARGETS" ANSIBLE_ROLES_PATH="$TARGETS" \
		ansible-playbook -i ../inventory "$name.yaml" -e "output_dir=$WORK/output" "$@"
}
