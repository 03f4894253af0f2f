# The command `forms`: makes a pod of each manifest in examples/images, and runs ansible-core's target `connection` in all of them: every
# way in which the agent comes into a pod carries the same connection. Needs the archives of `make images`. `../run` sources this file.

FORMS=(injected init-container image-volume baked-in first-process restricted native-sidecar)
run_forms() {
	local form inventory=$WORK/forms.yaml version
	version=$(sed 's/.*podbridge-agent://; q' "$ROOT/dist/images/digests")
	RESTRICTED=$NAMESPACE-restricted
	NAMESPACES+=("$RESTRICTED")
	unpack_targets
	bake_image "$version"
	"$ROOT/tests/cluster/cluster" import "$ROOT"/dist/images/podbridge-agent{,-git}.tar "$WORK/baked.tar"
	echo "kubectl:" >"$inventory"
	echo "  hosts:" >>"$inventory"
	for form in "${FORMS[@]}"; do
		make_form "$form" "$version"
		{
			echo "    kubectl-$form-ünï:"
			host_vars "form-$form" "$(namespace_of "$form")" | sed 's/^/      /'
			[ "$form" != native-sidecar ] || echo "      ansible_kubectl_container: main"
		} >>"$inventory"
	done
	for form in "${FORMS[@]}"; do
		kube -n "$(namespace_of "$form")" wait --for=condition=Ready "pod/form-$form" --timeout=60s >/dev/null || die "$form: its pod does not start"
	done
	run_logged connection env -C "$TARGETS/connection" INVENTORY="$inventory" ./test.sh \
		-e target_hosts=kubectl -e action_prefix= -e "local_tmp=$WORK/ansible-local" -e remote_tmp=/tmp/ansible-remote
	say "target connection passed in ${#FORMS[@]} pods"
	for form in "${FORMS[@]}"; do "check_${form//-/_}" "form-$form"; done
}

namespace_of() { if [ "$1" = restricted ]; then echo "$RESTRICTED"; else echo "$NAMESPACE"; fi; }

# Builds the images of the cluster, if they are missing, and sets TEST_IMAGES to their directory; before the run enters the cluster's network
# namespace, which has no Internet.
ensure_test_images() {
	TEST_IMAGES=$(HERE=$ROOT/tests/cluster && . "$HERE/lib/prepare.sh" && ensure_images && echo "$IMAGES")
}

# Builds the image of baked-in.yaml from the test image and the agent's, with examples/images/Containerfile. The mounts of the build are in a
# mount namespace that ends with it.
bake_image() {
	echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$WORK/policy.json"
	HOME=$WORK run_logged bake unshare --mount bash -euc '
		buildah() { command buildah --root "$0/buildah" --runroot "$0/buildah-run" --storage-driver overlay "$1" --signature-policy "$0/policy.json" "${@:2}"; }
		buildah pull --quiet "docker-archive:$1/debian.tar"
		agent=$(buildah pull --quiet "oci-archive:$2/dist/images/podbridge-agent.tar")
		buildah build --quiet --isolation chroot --tag localhost/podbridge-test/baked:1 \
			--build-arg IMAGE=localhost/podbridge-test/debian:1 --build-arg AGENT="$agent" "$2/examples/images"
		buildah push --quiet localhost/podbridge-test/baked:1 "docker-archive:$0/baked.tar:localhost/podbridge-test/baked:1"
	' "$WORK" "$TEST_IMAGES" "$ROOT"
	rm -rf "$WORK/buildah" "$WORK/buildah-run"
}

# make_form FORM VERSION: makes the pod of a manifest, under the name form-FORM.
make_form() {
	local form=$1 namespace
	namespace=$(namespace_of "$form")
	PODS+=("$namespace/form-$form")
	sed -e "s#registry.example.com/podbridge-agent\(-git\|\)\(,\|\$\)#localhost/podbridge-agent\1:$2\2#" \
		-e 's#registry.example.com/python-with-agent$#localhost/podbridge-test/baked:1#' \
		-e 's#registry.example.com/\(python\|main\)$#localhost/podbridge-test/debian:1#' \
		-e "/^kind: Namespace/,/^---/s/^  name: .*/  name: $RESTRICTED/; s/^  namespace: .*/  namespace: $RESTRICTED/" \
		-e "/^kind: Pod/,/^spec:/s/^  name: .*/  name: form-$form/" \
		"$ROOT/examples/images/$form.yaml" >"$WORK/$form.yaml"
	# A user that the cluster assigns, as OpenShift does.
	[ "$form" != restricted ] || sed -i 's/^    runAsNonRoot: true/&\n    runAsUser: 1000670000\n    runAsGroup: 0/' "$WORK/$form.yaml"
	poll 30 kube -n "$namespace" apply -f "$WORK/$form.yaml" >"$WORK/$form.apply" 2>&1 || { cat "$WORK/$form.apply" >&2; die "$form: the API server refuses it"; }
}

# agents POD: prints the program of each agent in the container main.
agents() {
	kube -n "$(namespace_of "${1#form-}")" exec "$1" -c main -- sh -c 'readlink /proc/[0-9]*/exe' | grep podbridge-agent | sort -u
}

expect_agent() {
	[ "$(agents "$1")" = "$2" ] || die "$1: the agent is $(agents "$1") instead of $2"
}

check_injected() { [[ $(agents "$1") = /tmp/.podbridge-0/podbridge-agent-* ]] || die "$1: the agent is $(agents "$1")"; }
check_init_container() { expect_agent "$1" /opt/podbridge/podbridge-agent; }
check_image_volume() {
	expect_agent "$1" /opt/podbridge/podbridge-agent
	! kube exec "$1" -c main -- touch /opt/podbridge/new 2>"$WORK/image-volume" || die "$1: the volume can be written"
	grep -q 'Read-only file system' "$WORK/image-volume" || die "$1: $(cat "$WORK/image-volume")"
}
check_baked_in() { expect_agent "$1" /usr/bin/podbridge-agent; }
check_first_process() {
	expect_agent "$1" /opt/podbridge/podbridge-agent
	[ "$(kube exec "$1" -c main -- readlink /proc/1/exe)" = /opt/podbridge/podbridge-agent ] || die "$1: the first process is another one"
}
check_restricted() {
	expect_agent "$1" /opt/podbridge/podbridge-agent
	[ "$(kube -n "$RESTRICTED" exec "$1" -c main -- id -u)" = 1000670000 ] || die "$1: the user is another one"
	# The namespace refuses what is not restricted.
	! kube -n "$RESTRICTED" run unrestricted --image localhost/podbridge-test/busybox:1 >"$WORK/unrestricted" 2>&1 || die "$1: the namespace admits every pod"
	grep -q 'violates PodSecurity' "$WORK/unrestricted" || die "$1: $(cat "$WORK/unrestricted")"
}

# A repository is pushed into the sidecar, with the agent that is its first process, and the main container sees the files.
check_native_sidecar() {
	local log=$WORK/sidecar
	git init --quiet --initial-branch main "$log"
	echo content >"$log/file"
	git -C "$log" add file
	git -C "$log" -c user.name=a -c user.email=a@example.com commit --quiet -m one
	run_logged push env -C "$log" "$PODBRIDGE_EXECUTABLE" git --kubeconfig "$KUBE_CONFIG" -n "$NAMESPACE" -c git push --quiet "$1:/zuul/project" main
	[ "$(kube exec "$1" -c main -- cat /zuul/project/file)" = content ] || die "$1: the main container does not see the files"
	[ "$(kube exec "$1" -c git -- readlink /proc/1/exe)" = /podbridge-agent ] || die "$1: the sidecar's first process is another one"
}
