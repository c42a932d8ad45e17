# The one entry point, for people and for CI. `make` alone lists the targets.
#
# Every cargo call that compiles says `--release --workspace`: one profile and one set of features, so that
# RocksDB is compiled once for build, test, clippy and bench (docs/decisions/0005-one-profile.md).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Outside the checkout, so that a fresh clone finds RocksDB already compiled.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/raftkv/target
# rustup puts cargo here; a login shell that has not been restarted since does not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help setup toolchain build demo test test-long sim mutants model check bench fmt clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what building, testing and checking need and is missing
	@scripts/setup compiler lints

toolchain:
	@scripts/setup compiler

build: toolchain ## Build raftkv and raftkv-cli
	cargo build --locked --release --workspace --bins

demo: build ## Start three nodes and give a tour: put, get, kill the leader, catch up
	@scripts/demo-tour

test: build ## Run every test
	@scripts/test

test-long: build ## Run the tests that take minutes
	cargo test --locked --release --workspace --no-fail-fast --test watches --test etcd --test streaming --test compaction -- --ignored --nocapture --test-threads 1

SEEDS ?= 1000
sim: toolchain ## Run the simulator on SEEDS seeds from SEED on, or from a random one; with SEED alone, that one with its trace
	cargo build --locked --release --workspace --bin raftkv-sim
	$(CARGO_TARGET_DIR)/release/raftkv-sim $(if $(SEED),--seed $(SEED)) $(if $(and $(SEED),$(filter file default,$(origin SEEDS))),--trace,--seeds $(SEEDS))

mutants: toolchain ## Plant bugs in a copy of the tree, one at a time; each must be caught (takes about twenty minutes)
	scripts/mutants

model: toolchain ## Go through every state of the core in small configurations (docs/model.md; about eight minutes, up to 12 GiB)
	cargo test --locked --release --workspace --test model -- --include-ignored --nocapture --test-threads 1

check: setup ## rustfmt, clippy and rustdoc with warnings denied, and the crates' dependency arrows
	cargo fmt --all --check
	cargo fmt --manifest-path raft/freestanding/Cargo.toml --check
	cargo clippy --locked --release --workspace --all-targets -- -D warnings
	cargo clippy --locked --release --manifest-path raft/freestanding/Cargo.toml -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --release --workspace --no-deps --document-private-items
	cargo test --locked --release --workspace --test house

bench: build ## Run the benches
	cargo bench --locked --workspace --bench '*'

fmt: ## Format the code
	cargo fmt --all
	cargo fmt --manifest-path raft/freestanding/Cargo.toml

clean: ## Remove what was built of raftkv itself; RocksDB and the other dependencies stay
	cargo clean --release --workspace
