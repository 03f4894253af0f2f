# The command `targets`: runs ansible-core's integration targets as ansible-test does, with pods as hosts. `../run` sources this file.

# run_targets TARGET[:plain]…: runs each target without become and, unless it is :plain, also with become.
run_targets() {
	local target pod=targets-${CORE/./-}-${1//[_:]/-} python=/usr/bin/python3
	unpack_targets
	prepare_test_home
	SHARED=$([[ $1 != template* ]] || echo "$WORK") new_pod "$pod"
	exec_in_pod "$pod" install -D /dev/null /root/.ssh/authorized_keys
	# The target template assumes that the host is the controller, so files, output and interpreter need the same path on both.
	[[ $1 != template* ]] || python=$VENV/bin/python
	{
		echo "testgroup:"
		echo "  hosts:"
		echo "    testhost:"
		host_vars "$pod" | sed "s/^/      /; s|/usr/bin/python3|$python|"
		# The target fetch sets ansible_user to a user that it has made, and to a missing one; podbridge has its own variable.
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
			exec_in_pod "$pod" mkdir -p "$VENV/bin"
			exec_in_pod "$pod" ln -s /usr/bin/python3 "$VENV/bin/python"
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

# run_connection POD [OPTION…]: runs the target connection with and without pipelining, on hosts whose names need quoting.
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
	run_logged "connection$*" env -C "$TARGETS/connection" INVENTORY="$inventory" ./test.sh "${arguments[@]}" "$@"
}

# run_unarchive: runs the target without the parts that need the Internet or Ubuntu: test_download, test_different_language_var and
# the installation of packages.
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
	run_logged unarchive env -C "$TARGETS" ANSIBLE_ROLES_PATH="$TARGETS" ansible-playbook "${arguments[@]}" unarchive.yaml
	arguments[1]=../../inventory
	run_logged unarchive-relative env -C "$TARGETS/unarchive" ANSIBLE_ROLES_PATH="$TARGETS" ANSIBLE_REMOTE_TMP=./ansible \
		ansible-playbook "${arguments[@]}" test_relative_tmp_dir.yml
}

# Makes a home of root with .ssh/authorized_keys, as the test containers of ansible have it: the targets copy and fetch copy that file.
# IN_TEST_HOME is the prefix of commands that need it.
prepare_test_home() {
	mkdir -p "$WORK/root/.ssh"
	touch "$WORK/root/.ssh/authorized_keys"
	awk -F: -v OFS=: -v home="$WORK/root" '$1 == "root" { $6 = home } 1' /etc/passwd >"$WORK/passwd"
	IN_TEST_HOME=(unshare --mount sh -c 'mount --bind "$0" /etc/passwd && exec "$@"' "$WORK/passwd")
}

# run_target NAME [OPTION…]: runs a target by its runme.sh, or as a role.
run_target() {
	local name=$1 directory=$TARGETS/$1
	shift
	mkdir -p "$WORK/output"
	if [ -x "$directory/runme.sh" ]; then
		run_logged "$name$*" "${IN_TEST_HOME[@]}" env -C "$directory" ANSIBLE_ROLES_PATH="$TARGETS" OUTPUT_DIR="$WORK/output" \
			INVENTORY_PATH=../../inventory ./runme.sh "$@"
		# runme.sh links a role and fails if the link is there, so the next run needs it removed.
		find "$directory" -type l -delete
		return
	fi
	cat >"$TARGETS/$name.yaml" <<-Y
		- hosts: testhost
		  gather_facts: true
		  roles:
		    - role: $name
	Y
	run_logged "$name$*" env -C "$TARGETS" ANSIBLE_ROLES_PATH="$TARGETS" \
		ansible-playbook -i ../inventory "$name.yaml" -e "output_dir=$WORK/output" "$@"
}
