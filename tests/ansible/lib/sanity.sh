# The command `sanity`: runs ansible-test sanity on a copy of the collection in a directory ansible_collections/podbridge/zuul, with
# a home outside the clone. `../run` sources this file.

run_sanity() {
	local home=$CACHE/ansible-test-$VERSION collection=$WORK/ansible_collections/podbridge/zuul
	provide_pip "$home/.ansible/test/cache"
	mkdir -p "$collection"
	git -C "$ROOT" ls-files -z --cached --others --exclude-standard ansible | tar -c -C "$ROOT" --null -T - |
		tar -x -C "$collection" --strip-components=1
	run_logged sanity env -C "$collection" HOME="$home" PATH="$VENV/bin:$PATH" \
		ansible-test sanity --local --python "$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" --requirements
}

# ansible-test would download get-pip.py from its own server. This replacement installs pip with Python's ensurepip instead and uses
# only the package registry.
provide_pip() {
	mkdir -p "$1"
	cat >"$1/get_pip_24_2.py" <<-'P'
		import ensurepip, os, runpy, sys
		ensurepip.bootstrap()
		os.environ.pop("PIP_CONFIG_FILE", None)  # ensurepip sets it to /dev/null
		options = [option for option in sys.argv[1:] if option not in ("--no-setuptools", "--no-wheel")]
		sys.argv[:] = ["pip", "install", *options]
		runpy.run_module("pip", run_name="__main__")
	P
}
