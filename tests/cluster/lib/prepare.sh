# Preparation of a cluster: installs the Debian packages, and builds Kubernetes, containerd and the images in $CACHE, each in a directory
# named by the hash of its sources. `cluster` and tests/ansible/lib/local.sh source this file.

K8S_VERSION=1.34.2

# hash_of FILE…: prints the hash of the contents; names do not matter.
hash_of() { cat "$@" | sha256sum | cut -c1-16; }

CLUSTER_PACKAGES="etcd-server runc containernetworking-plugins mmdebstrap busybox-static iproute2 openssl python3 rsync"

# ensure_packages PACKAGE…: installs the missing packages of Debian, without starting their services.
ensure_packages() {
	local p missing='' policy=/usr/sbin/policy-rc.d rc=0
	for p; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || :)" = installed ] || missing+=" $p"
	done
	[ -n "$missing" ] || return 0
	say "installing$missing"
	if [ -e $policy ]; then policy=''; else
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
	fi
	# shellcheck disable=SC2086
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing; } >&2 9>&- || rc=$?
	[ -z "$policy" ] || rm -f "$policy"
	[ $rc = 0 ] || die "apt-get failed"
}

# build_go MODULE PACKAGES LDFLAGS: builds these packages of the Go module in $HERE/MODULE, if they are missing, and sets PROGRAMS to their
# directory. `tool` stands for the packages that the module's go.mod names.
build_go() {
	local src=$HERE/$1 flags=$3 source
	source=("$src"/go.mod "$src"/go.sum)
	[ ! -f "$src/main.go" ] || source=("$src/main.go" "${source[@]}")
	PROGRAMS=$CACHE/$1/$({ hash_of "${source[@]}"; go env GOVERSION GOARCH; echo "$flags"; } | sha256sum | cut -c1-16)
	[ ! -d "$PROGRAMS" ] || return 0
	say "building $1 (minutes, once)"
	mkdir -p "$PROGRAMS.$$"
	(cd "$src" && CGO_ENABLED=0 GOOS=linux GOWORK=off nice -n 10 go build -trimpath -buildvcs=false -mod=readonly -ldflags "$flags" \
		-o "$PROGRAMS.$$/" "$2" 9>&-) >&2 || die "go build failed"
	mv "$PROGRAMS.$$" "$PROGRAMS"
}

# Sets K8S to the path of the Kubernetes binary.
ensure_kubernetes() {
	local v=k8s.io/component-base/version PROGRAMS
	build_go k8s . "-s -w -X $v.gitVersion=v$K8S_VERSION -X $v.gitMajor=1 -X $v.gitMinor=34"
	K8S=$PROGRAMS/k8s
}

# Sets CONTAINERD to the directory of containerd, its shim and ctr.
ensure_containerd() {
	local PROGRAMS
	case ${PODBRIDGE_TEST_CONTAINERD:-} in
	'')
		build_go containerd tool "-s -w"
		CONTAINERD=$PROGRAMS
		;;
	debian)
		ensure_packages containerd
		CONTAINERD=/usr/bin
		;;
	*) die "PODBRIDGE_TEST_CONTAINERD is $PODBRIDGE_TEST_CONTAINERD; the only value is debian" ;;
	esac
}

# Builds the missing image archives and sets IMAGES to their directory.
ensure_images() {
	local suite i
	suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
	IMAGES=$CACHE/images/$({ hash_of "$HERE/images.py" "$HERE"/../../packaging/images/{debian,oci}.py "$(command -v busybox)"; echo "$suite"; } | sha256sum | cut -c1-16)
	mkdir -p "$IMAGES"
	for i in pause busybox debian; do
		[ ! -f "$IMAGES/$i.tar" ] || continue
		say "building the image $i"
		nice -n 10 python3 "$HERE/images.py" "$i" "$IMAGES/$i.tar" >&2 9>&- || die "image $i failed"
	done
}
