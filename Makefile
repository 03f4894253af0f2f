# One entry for everything; bare `make` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Builds and downloads live outside the clone, so that a fresh clone starts warm.
export PODBRIDGE_CACHE_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/podbridge
export CARGO_TARGET_DIR ?= $(PODBRIDGE_CACHE_DIR)/target

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: test
test: lint test-rust ## everything that has to pass

.PHONY: lint
lint: ## formatting, clippy
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: test-rust
test-rust: ## unit and crate tests
	cargo test --workspace --locked
