# Entry point for builds and tests; `make` without a target lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Builds and downloads are kept outside the clone, so that a new clone does not repeat them.
export PODBRIDGE_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/podbridge
export CARGO_TARGET_DIR ?= $(PODBRIDGE_CACHE_DIR)/target
export RUST_BACKTRACE ?= 0

HOST := $(shell rustc -vV | sed -n 's/^host: //p')
MACHINE := $(firstword $(subst -, ,$(HOST)))
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# The same sources give the same programs: no path of this machine is in them.
REMAP := --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src=/crates
AGENT_RUSTFLAGS := $(REMAP) -C target-feature=+crt-static
TOOLS := $(PODBRIDGE_CACHE_DIR)/tools
DENY := $(TOOLS)/cargo-deny-0.20.2
FUZZ := $(TOOLS)/cargo-fuzz-0.13.2
RUFF := $(TOOLS)/ruff-0.17.6
ANSIBLE := $(PODBRIDGE_CACHE_DIR)/venv/controller-ansible-core-2.18
PREVIOUS := $(PODBRIDGE_CACHE_DIR)/previous-$(shell cat tests/previous-build)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## release binaries in dist/bin
	# The agent is linked statically, because it has to run in images without a libc.
	RUSTFLAGS="$(AGENT_RUSTFLAGS)" cargo build --profile agent --locked -p podbridge-agent --target $(HOST)
	RUSTFLAGS="$(REMAP)" cargo build --release --locked -p podbridge
	install -D -t dist/bin $(CARGO_TARGET_DIR)/$(HOST)/agent/podbridge-agent $(CARGO_TARGET_DIR)/release/podbridge
	# kubectl and oc are for a Zuul executor's /usr/local/sbin. They have their own directory, so that dist/bin in PATH does not hide the
	# real kubectl. Hard links need no space, and unlike symbolic links they still work after the directory is copied.
	mkdir -p dist/bin/zuul
	ln -f dist/bin/podbridge dist/bin/zuul/kubectl
	ln -f dist/bin/podbridge dist/bin/zuul/oc
	# podbridge-ssh is for GIT_SSH, which must be a program without arguments.
	ln -f dist/bin/podbridge dist/bin/podbridge-ssh

# Architectures of the images. One that is not this machine's is cross-compiled, with Debian's compiler for it as the linker.
ARCHITECTURES ?= $(MACHINE)
FOREIGN := $(filter-out $(MACHINE),$(ARCHITECTURES))
BINARIES := $(foreach a,$(ARCHITECTURES),$(a)=dist/$(if $(filter $(MACHINE),$(a)),bin,$(a)))
# ensure-debian PACKAGE,PROGRAM: installs the package if the program is missing; without PROGRAM both have one name.
ensure-debian = @command -v $(or $(2),$(1)) >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $(1); } >&2
.PHONY: images
images: build $(FOREIGN:%=foreign-%) ## images that carry podbridge, in dist/images; ARCHITECTURES="x86_64 aarch64" for both
	$(call ensure-debian,mmdebstrap)
	mkdir -p dist/images
	packaging/images/build dist/images --version $(VERSION) $(BINARIES:%=--binaries %) >dist/images/digests
	@cat dist/images/digests

.PHONY: $(FOREIGN:%=foreign-%)
$(FOREIGN:%=foreign-%): foreign-%:
	@command -v $*-linux-gnu-gcc >/dev/null || { echo "no linker for $*: apt-get install gcc-$(subst _,-,$*)-linux-gnu libc6-dev-$(DEBIAN_$*)-cross" >&2 && exit 1; }
	rustup target add $*-unknown-linux-gnu
	RUSTFLAGS="$(AGENT_RUSTFLAGS)" cargo build --profile agent --locked -p podbridge-agent $(for-foreign)
	RUSTFLAGS="$(REMAP)" cargo build --release --locked -p podbridge $(for-foreign)
	install -D -t dist/$* $(CARGO_TARGET_DIR)/$*-unknown-linux-gnu/agent/podbridge-agent \
		$(CARGO_TARGET_DIR)/$*-unknown-linux-gnu/release/podbridge
for-foreign = --target $*-unknown-linux-gnu --config 'target.$*-unknown-linux-gnu.linker="$*-linux-gnu-gcc"'
DEBIAN_x86_64 := amd64
DEBIAN_aarch64 := arm64

.PHONY: demo
demo: build $(ANSIBLE)/.ready ## an Ansible play through podbridge, without a cluster
	ANSIBLE=$(ANSIBLE) demo/run

.PHONY: test test-quick
test: test-quick test-images test-identity test-parity test-cluster ## everything
test-quick: lint test-rust test-plugin test-differential demo ## everything that needs no cluster
.PHONY: test-more
test-more: test-warm-python test-cold-python test-parity-versions test-aarch64 ## what takes too long for `make test`, more than an hour: before a release, and before an issue is called resolved
	$(MAKE) test-long-targets
	$(MAKE) test-older-containerd
	$(MAKE) test-whole-path
	$(MAKE) test-job-roles
	$(MAKE) test-identity STEPS=2000
	$(MAKE) soak CUTS=10000
	$(MAKE) hostile MINUTES=5

.PHONY: fmt check
fmt: $(RUFF)/.ready ## format Rust and Python
	cargo fmt --all
	$(RUFF)/bin/ruff format
check: $(RUFF)/.ready ## what to run before a commit, under two minutes when warm: format, clippy, tidy, unit tests
	cargo fmt --all --check
	$(RUFF)/bin/ruff check
	$(RUFF)/bin/ruff format --check
	bench/report check
	python3 -B bench/tests/test_results.py -q
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --quiet --locked --workspace --lib --test tidy

.PHONY: lint
lint: $(DENY)/.ready $(RUFF)/.ready advisories ## formatting, clippy, dependencies, Python style
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	$(DENY)/bin/cargo-deny --locked check --hide-inclusion-graph bans licenses sources
	$(RUFF)/bin/ruff check
	$(RUFF)/bin/ruff format --check
	bench/report check
	python3 -B bench/tests/test_results.py -q
	tests/ansible/run sanity 2.18

.PHONY: advisories
advisories: $(DENY)/.ready ## known weaknesses of the dependencies; needs the advisory database, which is a git repository on the Internet
	@if $(DENY)/bin/cargo-deny --locked fetch db >/dev/null 2>&1; then \
		$(DENY)/bin/cargo-deny --locked check --disable-fetch --hide-inclusion-graph advisories; \
	else echo "advisories: not checked: the database $$(sed -n 's/^db-urls = \["\(.*\)"\]/\1/p' deny.toml) cannot be fetched from here"; fi

.PHONY: requirements
requirements: ## write tests/requirements anew: newer versions of what the tests install, with their hashes
	tests/requirements/renew

.PHONY: test-rust
test-rust: $(PREVIOUS)/.ready ## unit, crate and process tests
	# More threads than cores, because most tests wait.
	RUST_TEST_THREADS=$$(($$(nproc) * 2)) cargo test --workspace --locked --no-fail-fast

# Without a debugger's information the programs are loaded faster. The agent and its tests know by the cfg that qemu-user runs them.
AARCH64_RUSTFLAGS := $(AGENT_RUSTFLAGS) --cfg podbridge_qemu_user -C strip=debuginfo
.PHONY: test-aarch64
test-aarch64: ## the agent's own tests for aarch64, under qemu-user, as root; ONLY=name runs some; docs: tests/aarch64/run
	$(call ensure-debian,gcc-aarch64-linux-gnu libc6-dev-arm64-cross,aarch64-linux-gnu-gcc)
	$(call ensure-debian,qemu-user,qemu-aarch64)
	rustup target add aarch64-unknown-linux-gnu
	RUSTFLAGS="$(AARCH64_RUSTFLAGS)" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$(CURDIR)/tests/aarch64/run \
		cargo test --locked --no-fail-fast -p podbridge-agent --lib --test agent --target aarch64-unknown-linux-gnu -- $(ONLY)

.PHONY: test-images
test-images: images $(ANSIBLE)/.ready ## the images: reproducible, complete, usable
	$(call ensure-debian,buildah)
	$(if $(FOREIGN),$(call ensure-debian,qemu-user,qemu-$(firstword $(FOREIGN))))
	IMAGES=dist/images BINARIES="$(BINARIES)" $(ANSIBLE)/bin/python -m pytest -q -p no:cacheprovider tests/images

# The suite of hostile peers is one of the tests of test-rust; these targets run it alone, with the programs of this build.
.PHONY: test-hostile hostile
SEED ?=
MINUTES ?= 5
hostile-suite = cargo build --workspace --locked && SEED=$(SEED) $(1) cargo test --workspace --locked --test hostile
test-hostile: ## peers of every kind that lie or exhaust; SEED= repeats a run
	$(call hostile-suite)
hostile: ## the same for MINUTES=5, longer each time and with other seeds
	$(call hostile-suite,MINUTES=$(MINUTES))

.PHONY: fuzz
TARGET ?=
fuzz: $(FUZZ)/.ready ## new inputs for every parser, MINUTES=10 each, one after the other; TARGET= names one of fuzz/fuzz_targets
	cd fuzz && for target in $(or $(TARGET),$(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))); do \
		echo "fuzz $$target"; mkdir -p $(CARGO_TARGET_DIR)/fuzz/corpus/$$target; \
		PATH=$(FUZZ)/bin:$$PATH cargo +nightly fuzz run --target-dir $(CARGO_TARGET_DIR)/fuzz --sanitizer none $$target \
			$(CARGO_TARGET_DIR)/fuzz/corpus/$$target corpus/$$target -- -max_total_time=$$(($(or $(MINUTES),10) * 60)) \
			-timeout=20 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1; \
	done

# What kubectl makes of command lines, for the differential test of the shim.
KUBECTL_ARGUMENTS := $(PODBRIDGE_CACHE_DIR)/k8s/kubectl-arguments
.PHONY: $(KUBECTL_ARGUMENTS)
$(KUBECTL_ARGUMENTS):
	cd tests/cluster/k8s; CGO_ENABLED=0 go build -trimpath -buildvcs=false -mod=readonly -o $@ ./kubectl-arguments

.PHONY: test-differential
CASES ?=
test-differential: $(KUBECTL_ARGUMENTS) $(ANSIBLE)/.ready ## random inputs, compared with kubectl, rsync, sh and the plugin; CASES=100000 for more, SEED= repeats a run
	$(call ensure-debian,rsync)
	export $(if $(SEED),SEED=$(SEED)) $(if $(CASES),CASES=$(CASES)) \
		KUBECTL_ARGUMENTS=$(KUBECTL_ARGUMENTS) ANSIBLE_PYTHON=$(ANSIBLE)/bin/python; \
	cargo test --locked -p podbridge --lib -- --include-ignored differential && \
	cargo test --locked -p podbridge-tree --test tree -- --ignored rsync

.PHONY: soak
CUTS ?= 10000
soak: ## cut the link CUTS=10000 times under running commands; SEED= repeats a run
	cargo build --workspace --locked
	$(CARGO_TARGET_DIR)/debug/soak $(CUTS) $(SEED)

.PHONY: bench-agent
bench-agent: ## time and memory of the agent alone, compared with the same work without it
	RUSTFLAGS="$(AGENT_RUSTFLAGS)" cargo bench --profile agent --quiet --locked -p podbridge-agent --bench agent --target $(HOST)
	cargo bench --quiet --locked -p podbridge-tree --bench tree

# The stock kubectl of the benchmarks. The cluster's own kubectl is all of Kubernetes in one program, so it uses more memory.
STOCK_KUBECTL := $(PODBRIDGE_CACHE_DIR)/k8s/kubectl
.PHONY: $(STOCK_KUBECTL)
$(STOCK_KUBECTL):
	$(call build-kubectl,go.mod,$@)

# build-kubectl FILE PROGRAM: builds the kubectl of the release that this file of Go modules names.
define build-kubectl
cd tests/cluster/k8s; release=$$(sed -n '/component-base v0/{s#.* v0#v1#p;q}' $(1)); \
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -mod=readonly -modfile=$(1) \
	-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$release" -o $(2) ./kubectl
endef

.PHONY: test-identity
STEPS ?= 100
test-identity: build $(STOCK_KUBECTL) $(ANSIBLE)/.ready ## STEPS=100 random edits: kubectl, podbridge and the plugin reach the same server as the same user
	PODBRIDGE=$(CURDIR)/dist/bin/podbridge STOCK_KUBECTL=$(STOCK_KUBECTL) ANSIBLE_PYTHON=$(ANSIBLE)/bin/python \
		tests/identity/run $(STEPS) $(SEED)

on-a-cluster = export PODBRIDGE_CLUSTER_DIR=$$(mktemp -d); \
	trap 'tests/cluster/cluster down; rm -rf "$$PODBRIDGE_CLUSTER_DIR"' EXIT; \
	tests/cluster/cluster up >/dev/null; \
	STOCK_KUBECTL=$(STOCK_KUBECTL)

.PHONY: bench
bench: build $(STOCK_KUBECTL) ## podbridge beside its peers on a new cluster, and the tables of docs/bench; QUICK=1: in 8 minutes; ONLY=command,raw: these
	$(on-a-cluster) QUICK="$(QUICK)" ONLY="$(ONLY)" bench/run && failed=0 || failed=$$?; bench/report write; exit $$failed

.PHONY: test-plugin
test-plugin: $(ANSIBLE)/.ready ## unit tests of the Ansible plugin
	cd ansible && $(ANSIBLE)/bin/python -m pytest -q -p no:cacheprovider tests/unit

.PHONY: test-warm-python
test-warm-python: build ## tasks in warm Python and in a new one have the same results, files and processes, on each ansible-core
	tests/warm-python/all

.PHONY: test-parity
test-parity: build $(STOCK_KUBECTL) ## inputs that kubectl takes, run through the stock kubectl and podbridge
	STOCK_KUBECTL=$(STOCK_KUBECTL) tests/kubectl-parity/run

# The oldest and the newest kubectl of which the Go module proxy has all parts.
.PHONY: test-parity-versions
test-parity-versions: build ## the same with the oldest and the newest kubectl
	$(call build-kubectl,../../kubectl-parity/versions/oldest.mod,$(PODBRIDGE_CACHE_DIR)/k8s/kubectl-oldest)
	$(call build-kubectl,../../kubectl-parity/versions/newest.mod,$(PODBRIDGE_CACHE_DIR)/k8s/kubectl-newest)
	for age in oldest newest; do \
		STOCK_KUBECTL=$(PODBRIDGE_CACHE_DIR)/k8s/kubectl-$$age tests/kubectl-parity/run; \
	done

.PHONY: test-cluster
test-cluster: images $(STOCK_KUBECTL) $(ANSIBLE)/.ready ## the command line, Ansible and Zuul on pods of a real Kubernetes
	$(call ensure-debian,buildah)
	cargo build --locked -p podbridge-tests --bin soak
	SOAK=$(CARGO_TARGET_DIR)/debug/soak STOCK_KUBECTL=$(STOCK_KUBECTL) ANSIBLE_PYTHON=$(ANSIBLE)/bin/python tests/cluster-tier

.PHONY: test-long-targets
test-long-targets: build $(STOCK_KUBECTL) ## integration targets of Ansible that take minutes each, on a new cluster
	$(on-a-cluster) tests/long-targets

.PHONY: test-older-containerd
test-older-containerd: build $(ANSIBLE)/.ready ## the checks of the command line on a cluster with Debian's older containerd
	cargo build --locked -p podbridge-tests --bin soak
	export PODBRIDGE_TEST_CONTAINERD=debian; $(on-a-cluster) tests/cluster/cluster agent dist/bin/podbridge-agent; \
	SOAK=$(CARGO_TARGET_DIR)/debug/soak ANSIBLE_PYTHON=$(ANSIBLE)/bin/python tests/cluster/check

.PHONY: test-whole-path
test-whole-path: build $(STOCK_KUBECTL) ## all of Zuul and nodepool as services, from a push to the end of the builds, on a new cluster
	$(on-a-cluster) tests/zuul/run whole_path

.PHONY: test-native-job test-job-roles
test-native-job: images ## examples/native-job under Zuul: registry, image, pods and a build set, on a new cluster
	$(on-a-cluster) tests/zuul/run native_job native_build_set
test-job-roles: images ## all roles under Zuul, twice, and their failures, on a new cluster
	$(on-a-cluster) tests/zuul/run job_roles job_roles_fail

.PHONY: test-cold-python
test-cold-python: images $(STOCK_KUBECTL) ## integration targets of Ansible and scenarios of Zuul with warm Python off, on a new cluster
	$(on-a-cluster) WARM_PYTHON=false tests/cold-python

.PHONY: cluster-up cluster-down
cluster-up: ## start the test cluster and print its settings
	tests/cluster/cluster up
cluster-down: ## remove the test cluster
	tests/cluster/cluster down

# Tools, each in a directory that names its version; the file .ready marks a complete installation.
version = $(lastword $(subst -, ,$(@D)))

# The previous build, which the present one must work with. It uses the same target directory, because it shares nearly all of its
# dependencies; the next cargo build restores the present binaries.
$(PREVIOUS)/.ready:
	git cat-file -e $$(cat tests/previous-build) || { echo "this clone lacks the commit in tests/previous-build; get the whole history: git fetch --unshallow" >&2 && exit 1; }
	rm -rf $(@D)
	mkdir -p $(@D)/src
	git archive $$(cat tests/previous-build) | tar -x -C $(@D)/src
	cargo build --locked --manifest-path $(@D)/src/Cargo.toml -p podbridge -p podbridge-agent
	install -t $(@D) $(CARGO_TARGET_DIR)/debug/podbridge $(CARGO_TARGET_DIR)/debug/podbridge-agent
	rm -r $(@D)/src
	touch $@

$(DENY)/.ready:
	cargo install --locked --quiet --root $(@D) cargo-deny --version $(version)
	touch $@

$(FUZZ)/.ready:
	cargo install --locked --quiet --root $(@D) cargo-fuzz --version $(version)
	touch $@

$(RUFF)/.ready:
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements/ruff.txt
	touch $@

$(ANSIBLE)/.ready:
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements/controller.txt
	touch $@
