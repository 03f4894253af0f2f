# Installation of the tier's tools: bubblewrap from Debian, Zuul and nodepool from PyPI, the ansible that Zuul's own code installs, and
# Zuul's own stream tests from its sdist. All but bubblewrap are cached outside the clone. `../run` sources this file.

ZUUL_VERSION=14.3.0
ANSIBLE_VERSION=11

# The function ensure_packages.
. "$ROOT/tests/cluster/lib/prepare.sh"

ensure_bubblewrap() { with_lock ensure_packages bubblewrap util-linux git rsync procps; }

# Installs the services of the scenario whole_path, without starting them.
ensure_services() { with_lock ensure_packages libzookeeper-java default-jre-headless postgresql openssl; }

# Installs Zuul and nodepool, and sets ZUUL (its virtual environment), NODEPOOL (a directory of Python packages), ZUUL_ANSIBLE (Zuul's
# directory of ansible versions) and ZUUL_FIXTURES (Zuul's tests).
ensure_zuul() {
	ZUUL=$CACHE/venv/zuul-$ZUUL_VERSION
	NODEPOOL=$CACHE/venv/nodepool
	ZUUL_ANSIBLE=$CACHE/venv/zuul-$ZUUL_VERSION-ansible
	ZUUL_FIXTURES=$CACHE/sdist/zuul-$ZUUL_VERSION-tests
	with_lock make_zuul
	with_lock make_nodepool
	with_lock make_zuul_ansible
	with_lock fetch_fixtures
}

make_zuul() { install_packages_of "$ROOT/tests/requirements/zuul.txt" "$ZUUL" 3.11 3.12 3.13; }

# Installs nodepool without the packages that it needs: those that its drivers for Kubernetes need are also Zuul's. nodepool loads all of its
# drivers; those of two clouds need others.
make_nodepool() {
	local file=$ROOT/tests/requirements/nodepool.txt
	! cmp --quiet "$file" "$NODEPOOL/.ready" || return 0
	rm -rf "$NODEPOOL"
	"$ZUUL/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps --target "$NODEPOOL" -r "$file"
	rm -r "$NODEPOOL"/nodepool/driver/{gce,ibmvpc}
	cp "$file" "$NODEPOOL/.ready"
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

# Builds the image with buildah and a registry, if it is missing, and exports TIER_BUILDER.
ensure_builder() {
	local sources=("$ROOT"/tests/cluster/{builder_image,images}.py "$ROOT/packaging/images/debian.py")
	export TIER_BUILDER=$CACHE/images/builder-$({ cat "${sources[@]}" /etc/os-release; } | sha256sum | cut -c1-16).tar
	with_lock make_builder "${sources[0]}"
}

make_builder() {
	[ ! -f "$TIER_BUILDER" ] || return 0
	say "building the image builder (a minute, once)"
	mkdir -p "$CACHE/images"
	nice -n 10 python3 "$1" "$TIER_BUILDER" >&2 || die "the image builder failed"
}
