# This file owns how ansible-core's integration targets are run: as ansible-test would, with pods for hosts.

# run_targets TARGET[:plain]…: with and without become, or only without.
run_targets() {
	local target pod=targets-${CORE/./-}-${1//[_:]/-} python=/usr/bin/python3
	unpack_targets
	as_test_container
	SHARED=$([[ $1 != template* ]] || echo "$WORK") new_pod "$pod"
	in_pod "$pod" install -D /dev/null /root/.ssh/authorized_keys
	# The target template takes its host for the controller: its files, its output and its interpreter have one path for both.
	[[ $1 != template* ]] || python=$VENV/bin/python
	{
		echo "testgroup:"
		echo "  hosts:"
		echo "    testhost:"
		host_vars "$pod" | sed "s/^/      /; s|/usr/bin/python3|$python|"
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
		template:plain)
			in_pod "$pod" mkdir -p "$VENV/bin"
			in_pod "$pod" ln -s /usr/bin/python3 "$VENV/bin/python"
			run_target template
			;;
		unarchive:plain) run_unarchive ;;
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

# run_unarchive: the target but test_download, which is of the Internet, test_different_language_var, which installs a package of
# Ubuntu, and what is done with packages, whose source is in the Internet, too.
run_unarchive() {
	local part arguments=(-i ../inventory -e ansible_pkg_mgr=none)
	{
		echo "- hosts: testhost"
		echo "  roles: [setup_remote_tmp_dir, setup_gnutar, setup_test_user]"
		echo "  tasks:"
		for part in $(sed -n 's/^- import_tasks: //p' "$TARGETS/unarchive/tasks/main.yml" | grep -Ev "test_(download|different_language_var)"); do
			echo "    - {include_role: {name: unarchive, tasks_from: $part}}"
		done
	} >"$TARGETS/unarchive.yaml"
	logged unarchive env -C "$TARGETS" ANSIBLE_ROLES_PATH="$TARGETS" ansible-playbook "${arguments[@]}" unarchive.yaml
	arguments[1]=../../inventory
	logged unarchive-relative env -C "$TARGETS/unarchive" ANSIBLE_ROLES_PATH="$TARGETS" ANSIBLE_REMOTE_TMP=./ansible \
		ansible-playbook "${arguments[@]}" test_relative_tmp_dir.yml
}

# A home of root that has authorized_keys, as in the test containers of ansible (the targets copy and fetch copy them).
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
