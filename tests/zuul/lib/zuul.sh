# Installation of the tier's tools: bubblewrap from Debian, Zuul from PyPI, the ansible that Zuul's own code installs, and
# Zuul's own stream tests from its sdist. The last three are cached outside the clone. `../run` sources this file.

ZUUL_VERSION=14.3.0
ANSIBLE_VERSION=11

ensure_bubblewrap() {
	local package missing=''
	for package in bubblewrap util-linux git rsync procps; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || :)" = installed ] || missing+=" $package"
	done
	[ -n "$missing" ] || return 0
	with_lock install_packages "$missing"
}

install_packages() {
	say "installing$1"
	# shellcheck disable=SC2086
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $1; } >&2 ||
		die "apt-get failed"
}

# Installs Zuul and sets ZUUL (its virtual environment), ZUUL_ANSIBLE (Zuul's directory of ansible versions) and ZUUL_FIXTURES
# (Zuul's tests).
ensure_zuul() {
	ZUUL=$CACHE/venv/zuul-$ZUUL_VERSION
	ZUUL_ANSIBLE=$CACHE/venv/zuul-$ZUUL_VERSION-ansible
	ZUUL_FIXTURES=$CACHE/sdist/zuul-$ZUUL_VERSION-tests
	with_lock make_zuul
	with_lock make_zuul_ansible
	with_lock fetch_fixtures
}

make_zuul() {
	local python
	[ ! -f "$ZUUL/.ready" ] || return 0
	say "installing zuul $ZUUL_VERSION (minutes, once)"
	python=$(find_python 3.11 3.12 3.13)
	"$python" -m venv --clear "$ZUUL"
	"$ZUUL/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$ROOT/tests/requirements/zuul.txt"
	touch "$ZUUL/.ready"
}

# Installs one version of ansible as `zuul-manage-ansible` does, and then podbridge-preimport.pth as an operator does.
make_zuul_ansible() {
	if [ ! -f "$ZUUL_ANSIBLE/.ready" ]; then
		say "installing ansible $ANSIBLE_VERSION as Zuul does (minutes, once)"
		rm -rf "$ZUUL_ANSIBLE"
		mkdir -p "$ZUUL_ANSIBLE"
		"$ZUUL/bin/python" - "$ZUUL_ANSIBLE" "$ANSIBLE_VERSION" <<-'P'
			import sys
			from zuul.lib.ansible import AnsibleManager
			ansible = AnsibleManager(runtime_install_root=sys.argv[1])._getAnsible(sys.argv[2])
			ansible.ensure_venv()
			ansible.ensure_ansible()
		P
		touch "$ZUUL_ANSIBLE/.ready"
	fi
	cp "$ROOT/packaging/zuul/podbridge-preimport.pth" "$ZUUL_ANSIBLE/$ANSIBLE_VERSION"/lib/python3.*/site-packages/
	"$ZUUL_ANSIBLE/$ANSIBLE_VERSION/bin/python" -c 'import sys; sys.exit(not {"stringprep", "encodings.idna"} <= set(sys.modules))' ||
		die "podbridge-preimport.pth has no effect: its modules are not imported"
}

# Unpacks Zuul's own stream test and its playbooks from the sdist; the wheel lacks them.
fetch_fixtures() {
	local sdist=$CACHE/sdist/zuul-$ZUUL_VERSION.tar.gz
	[ ! -f "$ZUUL_FIXTURES/.ready" ] || return 0
	if [ ! -f "$sdist" ]; then
		rm -rf "$CACHE/sdist/new-zuul"
		"$ZUUL/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary :all: --require-hashes \
			--dest "$CACHE/sdist/new-zuul" -r <(only_package zuul "$ROOT/tests/requirements/zuul.txt")
		mv "$CACHE/sdist/new-zuul"/* "$sdist"
	fi
	rm -rf "$ZUUL_FIXTURES"
	mkdir -p "$ZUUL_FIXTURES"
	tar -xzf "$sdist" -C "$ZUUL_FIXTURES" --strip-components=1 "zuul-$ZUUL_VERSION/tests/remote" \
		"zuul-$ZUUL_VERSION/tests/fixtures/config/remote-zuul-stream"
	touch "$ZUUL_FIXTURES/.ready"
}
