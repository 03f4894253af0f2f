# Installation of the tested ansible-core: its virtual environment, its sdist, and the stock collections. All are cached outside the
# clone. `../run` and tests/zuul/run source this file.

# pythons_for CORE: prints the Python versions that the core accepts; the most usual version comes first.
pythons_for() {
	case $1 in
	2.16) echo 3.11 3.12 3.10 ;;
	2.18 | 2.19) echo 3.11 3.12 3.13 ;;
	*) echo 3.13 3.12 3.14 ;;
	esac
}

# find_python VERSION…: prints the path of the first of these versions that is in PATH or in pyenv.
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
	die "none of the Python versions $* is in PATH or in pyenv; install one of them"
}

# with_lock COMMAND…: runs COMMAND under a lock, because parallel runs install the same files.
with_lock() {
	mkdir -p "$CACHE/venv" "$CACHE/sdist"
	(
		flock 8
		"$@"
	) 8<"$CACHE/venv"
}

# Installs the core; sets VENV (its virtual environment) and VERSION.
ensure_core() {
	VENV=$CACHE/venv/ansible-core-$CORE
	with_lock make_venv
	VERSION=$("$VENV/bin/python" -c 'from ansible.release import __version__; print(__version__)')
}

# only_package NAME FILE: prints the lines of one package in a requirements file: its version and its hashes.
only_package() {
	awk -v name="$1" '/^[^ ]/ { found = index($0, name "==") == 1 } found' "$2"
}

make_venv() {
	# shellcheck disable=SC2046
	install_packages_of "$ROOT/tests/requirements/ansible-core-$CORE.txt" "$VENV" $(pythons_for "$CORE")
}

# install_packages_of FILE VENV PYTHON…: makes the virtual environment with one of these versions of Python and installs what the
# requirements file FILE names; again after that file has changed. The file .ready in the environment is a copy of FILE.
install_packages_of() {
	local file=$1 venv=$2 python
	shift 2
	! cmp --quiet "$file" "$venv/.ready" || return 0
	if [ ! -f "$venv/.ready" ]; then
		python=$(find_python "$@")
		say "installing ${venv##*/} (minutes, once)"
		"$python" -m venv --clear "$venv"
	fi
	"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$file"
	cp "$file" "$venv/.ready"
}

# Downloads the sdist and sets SDIST. This runs before the run enters the cluster's network namespace, which has no Internet.
ensure_sdist() {
	SDIST=$CACHE/sdist/ansible_core-$VERSION.tar.gz
	with_lock fetch_sdist
}

fetch_sdist() {
	[ ! -f "$SDIST" ] || return 0
	rm -rf "$CACHE/sdist/new"
	"$VENV/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: --require-hashes \
		--dest "$CACHE/sdist/new" -r <(only_package ansible-core "$ROOT/tests/requirements/ansible-core-$CORE.txt")
	mv "$CACHE/sdist/new"/* "$SDIST"
}

# Unpacks test/integration of the sdist and sets TARGETS to its directory of targets.
unpack_targets() {
	tar -xzf "$SDIST" -C "$WORK" "ansible_core-$VERSION/test/integration"
	TARGETS=$WORK/ansible_core-$VERSION/test/integration/targets
}

# Release of the package `ansible`, which contains kubernetes.core 5.x, community.okd and the callback ansible.posix.json.
BUNDLE=11.13.0

# Downloads those collections and sets COLLECTIONS to their directory, before the run enters the cluster's network namespace.
ensure_collections() {
	COLLECTIONS=$CACHE/collections-$BUNDLE
	with_lock fetch_collections
}

fetch_collections() {
	local wheel=$CACHE/sdist/ansible-$BUNDLE-py3-none-any.whl
	[ ! -f "$COLLECTIONS/.ready" ] || return 0
	[ -f "$wheel" ] || "$VENV/bin/pip" download --quiet --disable-pip-version-check --no-deps --require-hashes \
		--dest "$CACHE/sdist" -r <(only_package ansible "$ROOT/tests/requirements/collections.txt")
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
