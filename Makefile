# Every target sets up what it needs, on a fresh clone, and redoes only what changed since.
# Needs: Linux, Python >= 3.11 with venv, a stable Rust toolchain with a linker. Nothing else has to be installed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

# rustup's usual place, for shells that were opened before it was installed.
export PATH := $(PATH):$(HOME)/.cargo/bin
# PyO3: build an extension module (no libpython to link against), as maturin does.
export PYO3_BUILD_EXTENSION_MODULE := 1
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv
export UV_NO_PROGRESS := 1
# As pip does: else the first start of each program compiles what it imports, and where Python may not write, every start.
export UV_COMPILE_BYTECODE := 1
# A virtual environment that happens to be active is not the one to install into.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

PYTHON ?=
FUZZ_SECONDS ?= 60
# Empty: other inputs each time.
FUZZ_SEED ?=
PYTEST_ARGS ?=
RUST_TEST_ARGS ?=
BENCH_ARGS ?=

BIN := .venv/bin
# Inside .venv, so that deleting it forgets them as well.
STAMPS := .venv/.stamps

RUST_SOURCES := Cargo.toml Cargo.lock $(wildcard crates/*/Cargo.toml) $(shell find crates -path '*/src/*.rs')

.PHONY: help
help: ## Show the targets
	@echo "Thermae. Targets, each complete in itself:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=<interpreter>  PYTEST_ARGS=...  RUST_TEST_ARGS=...  BENCH_ARGS=...  FUZZ_SECONDS=60  FUZZ_SEED=..."

.PHONY: run
run: build ## Set up, build and run the demonstration on real input
	$(BIN)/thermae demo

.PHONY: build
build: $(STAMPS)/build ## Set up .venv and build the package into it

.PHONY: test
test: build ## Run the Rust tests, then the Python tests
	cargo test --locked --workspace --exclude thermae-python --all-features --profile checked $(RUST_TEST_ARGS)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: lint
lint: build ## Check formatting, lints, types, and the stub against the compiled module
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo clippy --locked --workspace --lib -- -D warnings -D clippy::disallowed_methods
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	MYPYPATH=python $(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml thermae._thermae

.PHONY: format
format: $(STAMPS)/dependencies ## Format all code, and apply the safe fixes
	cargo fmt --all
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format

.PHONY: bench
bench: build ## Measure everything side by side and rewrite docs/benchmarks.md
	$(BIN)/thermae bench all --markdown docs/benchmarks.md $(BENCH_ARGS)

.PHONY: fuzz
fuzz: $(STAMPS)/toolchain ## Run each fuzz target for FUZZ_SECONDS, on stable Rust
	@shopt -s nullglob; \
	targets=(fuzz/fuzz_targets/*.rs); \
	if [ $${#targets[@]} -eq 0 ]; then echo "fuzz/fuzz_targets holds no targets" >&2; exit 1; fi; \
	for target in "$${targets[@]}"; do \
	    name=$$(basename "$$target" .rs); \
	    echo "fuzz $$name for $(FUZZ_SECONDS) s"; \
	    cargo run --locked --release --manifest-path fuzz/Cargo.toml --bin "$$name" -- --seconds $(FUZZ_SECONDS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED)); \
	done

.PHONY: wheel
wheel: $(STAMPS)/dependencies $(RUST_SOURCES) ## Build the abi3 wheel (Python >= 3.11) into dist/
	$(BIN)/maturin build --release --locked --out dist

.PHONY: lock
lock: $(STAMPS)/dependencies ## Update uv.lock and Cargo.lock to the newest allowed versions
	$(BIN)/uv lock --upgrade
	cargo update

.PHONY: clean
clean: ## Remove everything that was built or installed here
	rm -rf .venv target fuzz/target dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f python/thermae/_thermae*.so
	find crates python tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- Set-up, each step remembered by a stamp ---

# Checked on every run: it takes milliseconds, and a toolchain can disappear or be too old for an updated checkout.
.PHONY: check-toolchain
check-toolchain:
	@if [ "$$(uname -s)" != Linux ]; then \
	    echo "Thermae runs on Linux only, and this is $$(uname -s)." >&2; \
	    exit 1; \
	fi; \
	required=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml); \
	if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then \
	    echo "Thermae needs Rust $$required or newer, and found no cargo." >&2; \
	    echo "Install the stable toolchain from https://rustup.rs, then run make again." >&2; \
	    exit 1; \
	fi; \
	found=$$(rustc --version | cut -d' ' -f2); \
	if [ "$$(printf '%s\n' "$$required" "$${found%%-*}" | sort -V | head -n 1)" != "$$required" ]; then \
	    echo "Thermae needs Rust $$required or newer, and found $$found ($$(command -v rustc))." >&2; \
	    echo "Update it with: rustup update stable" >&2; \
	    exit 1; \
	fi; \
	if ! command -v cc >/dev/null; then \
	    echo "Rust needs a linker, and found no cc. On Debian and Ubuntu: apt install gcc libc6-dev" >&2; \
	    exit 1; \
	fi

# An order-only prerequisite runs the check without making what depends on this stamp out of date.
$(STAMPS)/toolchain: | check-toolchain $(STAMPS)/environment
	@touch $@

$(STAMPS)/environment:
	@rejected=""; python=""; \
	for candidate in $(if $(PYTHON),$(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	    if ! command -v "$$candidate" >/dev/null; then continue; fi; \
	    if ! version=$$("$$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null); then continue; fi; \
	    if ! "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	        rejected="$$rejected $$candidate is $$version;"; \
	    elif ! "$$candidate" -c 'import ensurepip, venv' 2>/dev/null; then \
	        rejected="$$rejected $$candidate $$version has no venv (Debian and Ubuntu: apt install python3-venv);"; \
	    else python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Thermae needs Python 3.11 or newer with venv, and found none:$${rejected:- $(or $(PYTHON),python3) was not found}" >&2; \
	    echo "Install one, or name one: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up .venv with $$python ($$version)"; \
	"$$python" -m venv --clear .venv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dependencies: uv.lock pyproject.toml | check-toolchain $(STAMPS)/environment
	@version=$$(sed -n '/^name = "uv"$$/{n;s/^version = "\(.*\)"$$/\1/p}' uv.lock); \
	echo "Installing the locked dependencies with uv $$version"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$$version"
	$(BIN)/uv sync --quiet --locked --all-extras --all-groups --no-install-project --inexact
	@touch $@

# An editable install: Python sources are used where they are, so that only compiled code is rebuilt.
$(STAMPS)/build: $(STAMPS)/dependencies $(RUST_SOURCES) | check-toolchain
	$(BIN)/maturin develop --uv --release --locked --quiet
	$(BIN)/python -m compileall -q python/thermae
	@touch $@
