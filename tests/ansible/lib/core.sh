# This file owns which ansible-core is tested: its virtual environment and its sdist, and the collections that are played beside
# ours; all cached outside the clone.

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

# Runs that start side by side want the same things: the first one makes them.
locked() {
	mkdir -p "$CACHE/venv" "$CACHE/sdist"
	(
		flock 8
		"$@"
	) 8<"$CACHE/venv"
}

# Set VENV to the virtual environment of the core.
ensure_core() {
	VENV=$CACHE/venv/ansible-core-$CORE
	locked make_venv
	VERSION=$("$VENV/bin/python" -c 'from ansible.release import __version__; print(__version__)')
}

make_venv() {
	local python
	[ ! -f "$VENV/.ready" ] || return 0
	# shellcheck disable=SC2046
	python=$(find_python $(pythons_for "$CORE"))
	"$python" -m venv --clear "$VENV"
	"$VENV/bin/pip" install --quiet --disable-pip-version-check "ansible-core~=$CORE.0"
	touch "$VENV/.ready"
}

# Set SDIST, fetched before the run enters the cluster's network namespace, which has no way out.
ensure_sdist() {
	SDIST=$CACHE/sdist/ansible_core-$VERSION.tar.gz
	locked fetch_sdist
	locked install_passlib
}

# What some targets want on the controller.
install_passlib() {
	"$VENV/bin/python" -c 'import passlib' 2>/dev/null || "$VENV/bin/pip" install --quiet --disable-pip-version-check passlib
}

fetch_sdist() {
	[ ! -f "$SDIST" ] || return 0
	rm -rf "$CACHE/sdist/new"
	"$VENV/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
		--dest "$CACHE/sdist/new" "ansible-core==$VERSION"
	mv "$CACHE/sdist/new"/* "$SDIST"
}

# Set TARGETS to a fresh copy of test/integration of the core's sdist.
unpack_targets() {
	tar -xzf "$SDIST" -C "$WORK" "ansible_core-$VERSION/test/integration"
	TARGETS=$WORK/ansible_core-$VERSION/test/integration/targets
}

# Releases of the package `ansible` carry the collections: kubernetes.core 5.x, community.okd and the callback ansible.posix.json.
BUNDLE=11.13.0

# Set COLLECTIONS to a directory with them, fetched before the run enters the cluster's network namespace.
ensure_collections() {
	COLLECTIONS=$CACHE/collections-$BUNDLE
	locked fetch_collections
}

fetch_collections() {
	local wheel=$CACHE/sdist/ansible-$BUNDLE-py3-none-any.whl
	[ ! -f "$COLLECTIONS/.ready" ] || return 0
	[ -f "$wheel" ] || "$VENV/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$CACHE/sdist" "ansible==$BUNDLE"
	rm -rf "$COLLECTIONS"
	mkdir -p "$COLLECTIONS"
	"$VENV/bin/python" - "$wheel" "$COLLECTIONS" <<-'P'
		import sys, zipfile
		parts = tuple(f"ansible_collections/{part}/" for part in ("kubernetes/core", "community/okd", "ansible/posix"))
		archive = zipfile.ZipFile(sys.argv[1])
		archive.extractall(sys.argv[2], [name for name in archive.namelist() if name.startswith(parts)])
	P
	touch "$COLLECTIONS/.ready"
}
