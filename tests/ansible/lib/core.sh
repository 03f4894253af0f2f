# This file owns which ansible-core is tested: its virtual environment and its sdist, both cached outside the clone.

# The oldest Python that a core accepts is the one that its users have.
python_for() {
	case $1 in
	2.16 | 2.18 | 2.19) echo 3.11 ;;
	2.20) echo 3.12 ;;
	*) echo 3.13 ;;
	esac
}

# find_python VERSION: from PATH or pyenv.
find_python() {
	local candidate
	for candidate in "$(command -v "python$1" || :)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python3; do
		if [ -x "$candidate" ] && "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')"; then
			echo "$candidate"
			return
		fi
	done
	die "needs Python $1, which is neither in PATH nor in pyenv"
}

# Set VENV to the virtual environment of the core.
ensure_core() {
	local python
	VENV=$CACHE/venv/ansible-core-$CORE
	if ! [ -f "$VENV/.ready" ]; then
		python=$(find_python "$(python_for "$CORE")")
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
