# What a person does with this project. `make` alone lists it.

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup build demo dev test python bench lint

CARGO ?= cargo

# Each test has processes and servers of its own: more at a time starve each other.
export RUST_TEST_THREADS ?= 2

# Runs a command and returns only when every process that it started is gone, with the command's exit code. All of them
# inherit descriptor 9, the write end of a pipe; its reader, which no Ctrl-C ends, reads to when the last one has ended.
to_the_last = set -o pipefail; { ( { $(1); } 9>&1 1>&8 8>&- ) | (trap '' INT TERM; exec cat >/dev/null); } 8>&1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Find or bring nats-server and PostgreSQL
	@deploy/setup.sh

build: ## Build the release program
	$(CARGO) build --release --locked

demo: setup ## Show a hub at work with a simulated fleet, on private servers
	@$(CARGO) build --release --locked
	@$(call to_the_last,target/release/central-hub demo $(ARGS))

dev: setup ## Run a private NATS, PostgreSQL and hub until Ctrl-C
	@$(CARGO) build --release --locked
	@$(call to_the_last,target/release/central-hub dev $(ARGS))

test: ## Run all tests on real servers; with ARGS only cargo's, and they are passed on
	@deploy/setup.sh --components
	@$(call to_the_last,$(CARGO) test --locked $(ARGS))
	@$(if $(ARGS),,$(call to_the_last,CARGO="$(CARGO)" clients/python/test.sh))

python: setup ## Check, build and test the Python client; ARGS are passed to pytest
	@$(call to_the_last,CARGO="$(CARGO)" clients/python/test.sh $(ARGS))

bench: setup ## Measure; ARGS are passed on
	@$(call to_the_last,$(CARGO) bench --locked $(ARGS))

lint: ## Check the formatting, and let clippy's warnings fail
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --all-features -- -D warnings
	$(CARGO) clippy --locked --lib --no-default-features --features client -- -D warnings
