# This file owns ansible-test sanity: the collection in the directory that its name asks for, and a home outside the clone.

run_sanity() {
	local home=$CACHE/ansible-test-$VERSION collection=$WORK/ansible_collections/podbridge/zuul
	bring_pip "$home/.ansible/test/cache"
	mkdir -p "$collection"
	git -C "$ROOT" ls-files -z --cached --others --exclude-standard ansible | tar -c -C "$ROOT" --null -T - |
		tar -x -C "$collection" --strip-components=1
	logged sanity env -C "$collection" HOME="$home" PATH="$VENV/bin:$PATH" \
		ansible-test sanity --local --python "$("$VENV/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" --requirements
}

# ansible-test downloads get-pip.py from a place of its own; the pip that Python brings does the same with the registry alone.
bring_pip() {
	mkdir -p "$1"
	cat >"$1/get_pip_24_2.py" <<-'P'
		import ensurepip, os, runpy, sys
		ensurepip.bootstrap()
		os.environ.pop("PIP_CONFIG_FILE", None)  # which ensurepip sets to nothing
		options = [option for option in sys.argv[1:] if option not in ("--no-setuptools", "--no-wheel")]
		sys.argv[:] = ["pip", "install", *options]
		runpy.run_module("pip", run_name="__main__")
	P
}
