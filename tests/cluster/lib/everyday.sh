# Checks of what people do every day with exec, cp, sync and ssh. Part of ../check, which reads this file. A kind of input has one table; a
# row is one line of it.

# A command in a loop leaves the loop's list alone unless it has -i, and no byte of a log changes: each row gives the same with kubectl.
check_streams() {
	local row input command expected got
	# loop COMMAND…: runs the command with each of three words; prints the bytes of all output.
	loop() { printf '%s\n' a b c | while read -r word; do "$@" "$word" 2>/dev/null; done | od -c; }
	# Each row: options of exec.
	while read -r row; do
		# shellcheck disable=SC2086,SC2016 # words; $0 is the loop's word
		expected=$(loop kube exec $row debian -- sh -c 'echo "$0"; cat')
		# shellcheck disable=SC2086,SC2016
		got=$(loop exec_in_pod $row debian -- sh -c 'echo "$0"; cat')
		[ "$got" = "$expected" ] || die "streams: in a loop with '$row': $got, kubectl: $expected"
	done <<-'END'

		-t
		-c main
		-i
		-it
	END
	while read -r row; do
		# shellcheck disable=SC2086
		got=$(loop podbridge -n "$NAMESPACE" ssh $row debian echo)
		[ "$got" = "$(printf '%s\n' a b c | od -c)" ] || die "streams: in a loop with ssh $row: $got"
	done <<-'END'
		-n
		-A -n
		-nq
		-nT
		-o StdinNull=yes
	END
	printf '%s\n' a b c >"$WORK/list"
	got=$(while read -r word; do
		podbridge -n "$NAMESPACE" cp -q "$WORK/list" debian:/tmp/list
		podbridge -n "$NAMESPACE" sync -q "$WORK/list" debian:/tmp/list
		podbridge -n "$NAMESPACE" status debian >/dev/null
		echo "$word"
	done <"$WORK/list" | xargs)
	[ "$got" = 'a b c' ] || die "streams: a loop with cp, sync and status ends with $got"
	# Each row: options, input, command.
	while IFS='|' read -r row input command; do
		[ -n "$row" ] || continue
		# shellcheck disable=SC2086
		expected=$(printf "$input" | kube exec $row debian -- sh -c "$command" 2>"$WORK/expected" | od -c)
		# shellcheck disable=SC2086
		got=$(printf "$input" | exec_in_pod $row debian -- sh -c "$command" 2>"$WORK/err" | od -c)
		[ "$got" = "$expected" ] || die "streams: exec $row prints $got, kubectl's $expected"
		[[ $row != *t* ]] || grep -q 'terminal\|-it' "$WORK/err" || die "streams: exec $row says nothing of its terminal: $(cat "$WORK/err")"
	done <<-'END'
		-t||printf "a\nb\n"
		--tty||printf "a\nb\n"
		-it|x\n|cat
		-it|x\ny|cat; echo end
		-i|x\r\n\0y|cat
		-i||cat
		-ti|one\n|head -n 1; echo two >&2
	END
	exec_in_pod debian -- rm -f /tmp/list
	report_passed "loops keep their list, and terminals change no byte"
}

# Destinations where a file cannot be replaced, or whose directory is not the copying user's. The pod is removed at the end, as its files are.
check_destinations() {
	local row destination in_place before after
	create_short_lived_pod
	in_pod() { kube exec short-lived -- "$@"; }
	in_pod sh -c 'mkdir -p /srv/x /srv/own /srv/link && echo old >/srv/x/f && chown 1000:1000 /srv/x/f && chmod 600 /srv/x/f && ln -s ../x/f /srv/link/f &&
		chmod 1777 /tmp && chown 1000:1000 /srv/own && chmod 2750 /srv/own'
	exec_in_pod readonly -- sh -c 'mkdir /tmp/x && echo old >/tmp/x/f && chmod 600 /tmp/x/f && chmod 555 /tmp/x'
	# Each row: how it is copied, pod and destination, and whether the file has to be written in place.
	echo new >"$WORK/new"
	while IFS='|' read -r row destination in_place; do
		[ -n "$row" ] || continue
		look() { kube exec "${destination%%:*}" -- "$@" "${destination#*:}"; }
		before=$(look stat -L -c '%a %u:%g')
		kube exec "${destination%%:*}" -- sh -c 'echo old >>"$0"' "${destination#*:}"
		# shellcheck disable=SC2086
		podbridge -n "$NAMESPACE" $row "$WORK/new" "$destination" 2>"$WORK/err" || die "destinations: $row to $destination: $(cat "$WORK/err")"
		[ "$(look cat)" = new ] || die "destinations: $row to $destination wrote $(look cat)"
		[ -z "$in_place" ] || grep -qi 'in place' "$WORK/err" || die "destinations: $row to $destination does not say how it wrote: $(cat "$WORK/err")"
		[[ $row = sync* ]] || [ "$(look stat -L -c '%a %u:%g')" = "$before" ] || die "destinations: $row changed $destination from $before to $(look stat -L -c '%a %u:%g')"
	done <<-'END'
		cp -q|short-lived:/etc/hosts|yes
		cp -q|short-lived:/etc/hostname|yes
		cp -q|short-lived:/etc/resolv.conf|yes
		cp -q|short-lived:/dev/termination-log|yes
		sync|short-lived:/etc/hosts|yes
		cp -q --user 1000|short-lived:/srv/x/f|
		sync --user 1000|short-lived:/srv/x/f|
		cp -q|short-lived:/srv/link/f|
		cp -q|readonly:/tmp/x/f|yes
		sync|readonly:/tmp/x/f|
	END
	exec_in_pod readonly -- sh -c 'chmod 755 /tmp/x; rm -r /tmp/x'
	# A directory that exists keeps its mode and owner. Each row: a directory of the pod.
	mkdir -p "$WORK/build/sub" && chmod 755 "$WORK/build"
	echo built >"$WORK/build/sub/file"
	for destination in /tmp /srv/own /etc /small; do
		before=$(in_pod stat -c '%a %u:%g' "$destination")
		podbridge -n "$NAMESPACE" sync -q "$WORK/build" "short-lived:$destination" || die "destinations: sync to $destination ends with $?"
		podbridge -n "$NAMESPACE" sync -q "$WORK/build/" "short-lived:$destination" || die "destinations: sync to $destination ends with $?"
		after=$(in_pod stat -c '%a %u:%g' "$destination")
		[ "$after" = "$before" ] || die "destinations: sync changed $destination from $before to $after"
		[ "$(in_pod cat "$destination/sub/file")" = built ] || die "destinations: sync to $destination lacks a file"
	done
	# A user that may write there, and may not change the directory.
	podbridge -n "$NAMESPACE" sync -q "$WORK/build/" readonly:/tmp || die "destinations: sync into a directory of another user ends with $?"
	podbridge -n "$NAMESPACE" sync -q "$WORK/build/" readonly:/tmp || die "destinations: the second sync into it ends with $?"
	exec_in_pod readonly -- rm -r /tmp/sub
	kube delete pod short-lived --force --grace-period=0 --wait=false >/dev/null 2>&1
	report_passed "files that cannot be replaced, and directories that exist"
}

# The home of a user without an entry in the passwd file is nobody's. Each row: user, and HOME.
check_homes() {
	local user expected got
	while read -r user expected; do
		got=$(exec_in_pod --user "$user" debian -- sh -c 'echo $HOME')
		[ "$got" = "$expected" ] || die "homes: HOME of $user is $got"
	done <<-END
		12345 /
		0 /root
		root /root
		tester /home/tester
		1000 /home/tester
	END
	report_passed "homes of users"
}

# The executor has no room, and no bridge yet: commands run, without a log. Where not even a socket can be made, one sentence says so.
check_full_executor() {
	local full=$WORK/full options code=0
	mkdir "$full"
	for options in size=64k nr_inodes=3; do
		code=0
		unshare --mount bash -c 'mount -t tmpfs -o "$1" none "$2"; head -c 1000000 /dev/zero >"$2/filler" 2>/dev/null || :
			export PODBRIDGE_DIR=$2/bridges
			"$3" -n "$4" exec debian -- echo here; code=$?
			"$3" -n "$4" stop debian >/dev/null 2>&1
			exit $code' - "$options" "$full" "$ROOT/dist/bin/podbridge" "$NAMESPACE" >"$WORK/out" 2>"$WORK/err" || code=$?
		case $options in
		size=*) [ "$code $(cat "$WORK/out")" = '0 here' ] || die "full: on a full file system: $code $(cat "$WORK/out" "$WORK/err")" ;;
		*) [ $code = 235 ] && [ "$(wc -l <"$WORK/err")" = 1 ] || die "full: without inodes: $code $(cat "$WORK/out" "$WORK/err")" ;;
		esac
	done
	# Each row: XDG_RUNTIME_DIR of a user who became this one by `su` or `sudo -E`.
	for options in /run/user/no-such "$WORK/file" /proc/1; do
		got=$(env -u PODBRIDGE_DIR XDG_RUNTIME_DIR="$options" "$ROOT/dist/bin/podbridge" -n "$NAMESPACE" exec debian -- echo here) ||
			die "full: with XDG_RUNTIME_DIR=$options a command ends with $?"
		[ "$got" = here ] || die "full: with XDG_RUNTIME_DIR=$options a command prints $got"
	done
	env -u PODBRIDGE_DIR -u XDG_RUNTIME_DIR "$ROOT/dist/bin/podbridge" -n "$NAMESPACE" stop debian
	report_passed "an executor without room"
}

# No command runs with the rights of another service account, or elsewhere than kubectl.
check_rights() {
	local -x PODBRIDGE=$ROOT/dist/bin/podbridge
	"$ROOT/tests/identity/rights" >&2 || die "rights: see above"
	report_passed "rights of service accounts, by command line and plugin"
}

# plugin VARIABLES COMMAND: runs a command through the connection plugin; prints its output, or what the plugin says.
plugin() {
	printf '{"directory": "/", "environment": {"PATH": "%s", "PODBRIDGE_DIR": "%s", "KUBECONFIG": "%s"}, "variables": %s, "command": "%s"}' \
		"$PATH" "$PODBRIDGE_DIR" "$KUBECONFIG" "$1" "$2" |
		"${ANSIBLE_PYTHON:?}" "$ROOT/tests/identity/plugin_worker.py" "$ROOT/ansible" "$ROOT/dist/bin/podbridge" 2>&1
}
