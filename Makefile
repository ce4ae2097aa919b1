# Every target first makes sure that what it needs is installed. PYTHON=/path/to/python3 chooses the Python.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup compile run test test-full test-rust test-python test-asyncio test-asyncio-full test-uvloop test-apps test-projects test-ct test-ct-full test-matrix test-matrix-full test-faults test-bench soak bench loom fuzz asan memcheck lint fmt fmt-check structure clippy dialyzer xref test-platforms test-kernels clean

REBAR := rebar3
FUZZ_SECONDS ?= 60
# cargo and the tests must use the Python that the library is linked to.
WITH_PYTHON = PYO3_PYTHON="$$(bash scripts/find_python.sh)"

HARNESS = --manifest-path benches/harness/Cargo.toml

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: ## install what is missing (Debian, as root), or say what is
	@bash scripts/setup.sh

compile: setup ## the native library and the OTP application
	$(REBAR) compile

run: compile ## the example servers: HTTP on HTTP_PORT (8080), echo on ECHO_PORT (9000)
	@bash scripts/run.sh

test: compile ## the gate: all but what takes long, and the core of the suites with every other Python here (15 minutes)
	@"$$(bash scripts/find_python.sh)" scripts/lanes.py "test-ct test-asyncio" "lint test-rust test-python test-matrix loom"

test-full: compile ## every case, with every Python here (an hour)
	@"$$(bash scripts/find_python.sh)" scripts/lanes.py "test-ct-full test-asyncio-full test-matrix-full"

test-rust: setup ## the tests of the crate
	$(WITH_PYTHON) cargo test --locked

test-python: setup ## the tests and the types of the Python package
	python=$$(bash scripts/venv.sh) && "$$python" -m pytest -q test/python && "$$python" -m mypy --strict python/erlang

test-asyncio: compile ## a core of CPython's own tests of asyncio, over our loops
	"$$(bash scripts/find_python.sh)" test/asyncio/own_loops.py
	"$$(bash scripts/find_python.sh)" test/asyncio/endpoints.py
	"$$(bash scripts/find_python.sh)" test/asyncio/transports.py
	"$$(bash scripts/find_python.sh)" test/asyncio/servers.py
	"$$(bash scripts/find_python.sh)" test/asyncio/conformance.py --core

test-asyncio-full: compile test-uvloop
	"$$(bash scripts/find_python.sh)" test/asyncio/conformance.py

test-uvloop: compile ## uvloop's own tests, over our loops (downloads them when it is first called)
	"$$(bash scripts/find_python.sh)" test/asyncio/uvloop_suite.py

test-apps: compile ## programs for asyncio from PyPI in a context, a PostgreSQL and a Redis beside it; installs them as root (ARGS="--group epoll")
	"$$(bash scripts/find_python.sh)" test/apps/run.py $(ARGS)

test-projects: compile ## docs/getting-started.md, followed as it stands, in projects of pytest, rebar3 and Mix, with releases (ARGS="mix")
	"$$(bash scripts/find_python.sh)" test/projects/run.py $(ARGS)

test-ct: setup ## Common Test, over real sockets
	$(REBAR) ct

test-ct-full: setup
	LONG=1 $(REBAR) ct

test-matrix: setup ## a core of Common Test with the other Pythons on this machine, which must have one from 3.12 on
	bash scripts/test_matrix.sh core

test-matrix-full: setup
	LONG=1 bash scripts/test_matrix.sh full

test-platforms: setup ## make test on Debian trixie and forky, in folders of their own; needs root (PLATFORMS="trixie")
	bash scripts/test_platforms.sh

test-kernels: setup ## the probe, the drivers and a core of the suites under other kernels, in qemu; needs root (KERNELS="bookworm")
	bash scripts/test_kernels.sh

test-faults: setup ## the contract of connections over drivers that make things go wrong (SEEDS="1 2 3")
	bash scripts/test_faults.sh

soak: compile ## bad clients, faults and restarts at full load on each backend (SOAK_SECONDS=600 SOAK_SEED=1 BACKENDS="uring epoll")
	"$$(bash scripts/find_python.sh)" test/soak/soak.py

loom: setup ## models of what threads share, in every interleaving (models/)
	cargo run --locked --quiet --manifest-path models/Cargo.toml --target-dir target/models

bench: compile ## compare with other servers, on this machine (ARGS="--quick" for two minutes, after a first build of some more; ARGS="--help")
	bash benches/servers/setup.sh
	cargo run --release --locked $(HARNESS) -- $(ARGS)

test-bench: compile ## the benchmark harness (its report in a browser: chromium), its servers, and that the micro-benchmarks run
	cargo fmt --check $(HARNESS)
	cargo clippy --locked --all-targets $(HARNESS) -- -D warnings
	[ -n "$$BROWSER_BINARY" ] || bash scripts/setup.sh chromium,chromium-browser,google-chrome,google-chrome-stable:chromium
	cargo test --locked $(HARNESS) -- --include-ignored
	bash benches/servers/setup.sh
	python=$$(bash scripts/venv.sh) && "$$python" -m pytest -q benches/servers
	$(WITH_PYTHON) cargo bench --locked --features bench -- --test

# What it asks of a compiler is allowed to a nightly one only, and works in any.
fuzz: setup ## connections and transports in any order of events, coverage-guided (FUZZ_SECONDS=60 for each)
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	for target in connections transports; do \
	    RUSTC_BOOTSTRAP=1 cargo fuzz run --target-dir target/fuzz $$target -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done

# The leak checker does not know what Python and the tests keep on purpose. RUSTC_BOOTSTRAP: the usual compiler has the
# sanitizer, and takes -Z by this alone. Locals stay on the stack, whose depth is measured by them.
asan: setup ## the tests of the crate under AddressSanitizer
	$(WITH_PYTHON) ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 CARGO_TARGET_DIR=target/asan RUSTC_BOOTSTRAP=1 \
	RUSTFLAGS="-Zsanitizer=address --cfg pyo3_disable_reference_pool" \
	cargo test --lib --locked --target $$(rustc -vV | sed -n 's/^host: //p')

memcheck: setup ## the suites and the soak over a library that AddressSanitizer watches (SUITES= SOAK_SECONDS=60)
	bash scripts/memcheck.sh

lint: fmt-check structure clippy xref dialyzer ## formatting, structure, clippy, xref, dialyzer

fmt: ## format the Rust code
	cargo fmt
	cargo fmt --manifest-path models/Cargo.toml
	cargo fmt --manifest-path fuzz/Cargo.toml

fmt-check: setup
	cargo fmt --check
	cargo fmt --check --manifest-path models/Cargo.toml
	cargo fmt --check --manifest-path fuzz/Cargo.toml

structure: setup ## who may import whom, and how long files and functions may be
	@"$$(bash scripts/find_python.sh)" scripts/check_structure.py

clippy: setup ## the Rust code, warnings are errors
	$(WITH_PYTHON) cargo clippy --locked --all-targets --all-features -- -D warnings

dialyzer: setup ## the types of the Erlang code
	$(REBAR) as check dialyzer

xref: setup ## calls to functions that do not exist; also compiles with warnings as errors
	$(REBAR) as check xref

clean: ## remove what was built
	rm -rf _build priv target benches/harness/target .venv
