# This file owns which ansible-core is tested: its virtual environment and its sdist, both cached outside the clone.

# The Pythons that a core accepts, the one that most of its users have first.
pythons_for() {
	case $1 in
	2.16) echo 3.11 3.12 3.10 ;;
	2.18 | 2.19) echo 3.11 3.12 3.13 ;;
	*) echo 3.13 3.12 3.14 ;;
	esac
}

# find_python VERSION…: the first that is in PATH or in pyenv.
find_python() {
	local version candidate
	for version in "$@"; do
		for candidate in "$(command -v "python$version" || :)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python3; do
			if [ -x "$candidate" ] && "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
				echo "$candidate"
				return
			fi
		done
	done
	die "needs one of Python $*, and none is in PATH or in pyenv"
}

# Set VENV to the virtual environment of the core.
ensure_core() {
	local python
	VENV=$CACHE/venv/ansible-core-$CORE
	if ! [ -f "$VENV/.ready" ]; then
		# shellcheck disable=SC2046
		python=$(find_python $(pythons_for "$CORE"))
		"$python" -m venv "$VENV"
		"$VENV/bin/pip" install --quiet --disable-pip-version-check "ansible-core~=$CORE.0"
		touch "$VENV/.ready"
	fi
	VERSION=$("$VENV/bin/python" -c 'from ansible.release import __version__; print(__version__)')
}

# The sdist, fetched before the run enters the cluster's network namespace, which has no way out.
ensure_sdist() {
	SDIST=$CACHE/sdist/ansible_core-$VERSION.tar.gz
	[ ! -f "$SDIST" ] || return 0
	mkdir -p "$CACHE/sdist"
	"$VENV/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
		--dest "$CACHE/sdist/new.$$" "ansible-core==$VERSION"
	mv "$CACHE/sdist/new.$$"/* "$SDIST"
	rmdir "$CACHE/sdist/new.$$"
}

# Set TARGETS to a fresh copy of test/integration of the core's sdist.
unpack_targets() {
	tar -xzf "$SDIST" -C "$WORK" "ansible_core-$VERSION/test/integration"
	TARGETS=$WORK/ansible_core-$VERSION/test/integration/targets
}
