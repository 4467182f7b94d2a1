# `make` alone explains itself. Every target is phony: there is a directory `task`, which would be "up to date".
.PHONY: help task rpc test test-long faults fuzz lint fmt doc bench bench-peers clean install
.DEFAULT_GOAL := help

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
OUT := $(or $(CARGO_TARGET_DIR),target)/release

help: ## show this list
	@echo 'Exact mean, median and mode, from a supervised worker on a Unix socket.'
	@echo 'Start with:  make task rpc && ./bin/task'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

task: ## build bin/task, the program that people run
	$(CARGO) build --release --locked --package task --bin task
	@mkdir -p bin && install -m 755 $(OUT)/task bin/task

rpc: ## build bin/task-rpc, the worker that it starts
	$(CARGO) build --release --locked --package task-rpc --bin task-rpc
	@mkdir -p bin && install -m 755 $(OUT)/task-rpc bin/task-rpc

# `cargo test` builds only the binaries of the package it tests; tests of one need those of the other.
test: ## run all tests
	$(CARGO) build --locked --workspace --bins --examples
	$(CARGO) test --locked --workspace --no-fail-fast

# CASES= sets how many for each kernel and level; `make test` has thousands.
CASES ?= 200000
test-long: ## hold the engine against exact arithmetic in millions of cases, for half an hour
	CASES=$(CASES) TASK_TEST_CASES=$(CASES) $(CARGO) test --release --locked --package task-rpc --lib engine
	CASES=$(CASES) TASK_TEST_CASES=$(CASES) \
	  $(CARGO) test --release --locked --package task-rpc --test engine_oracle --test engine_text

# `make test` has a few minutes' worth of the same. ROW= takes one kind, COUNT= another number, SEED= the same again.
faults: ## do the service every kind of harm, for hours, and print a table
	$(CARGO) build --release --locked --workspace --bins --examples
	FAULTS=long COUNT=$(COUNT) SEED=$(SEED) \
	  $(CARGO) test --release --locked --package task --test service -- $(ROW)

# What it finds stands in fuzz/artifacts; what it learns in target/fuzz: `cargo fuzz cmin` says what of it is worth a place
# in fuzz/corpus, which `make test` replays. FUZZ= takes some of the targets, TIME= seconds for each. Needs a C++ compiler.
FUZZ ?= frames lines hello answer scoreboard text npy
TIME ?= 60
CARGO_FUZZ := 0.13.2
fuzz: export CARGO_PROFILE_RELEASE_LTO := off
fuzz: export PATH := $(CURDIR)/target/tools/bin:$(PATH)
fuzz: ## send what nobody has thought of to every parser of strangers' bytes
	@command -v cargo-fuzz >/dev/null || \
	  $(CARGO) install --locked --version $(CARGO_FUZZ) --root target/tools cargo-fuzz
	@for target in $(FUZZ); do \
	  mkdir -p target/fuzz/$$target && echo "== $$target" && \
	  $(CARGO) fuzz build --sanitizer none --features libfuzzer $$target && ( ulimit -d 262144 && \
	  $(CARGO) fuzz run --sanitizer none --features libfuzzer $$target target/fuzz/$$target fuzz/corpus/$$target -- \
	    -max_total_time=$(TIME) -max_len=4096 -len_control=0 -timeout=20 -print_final_stats=1 ) || exit 1; \
	done

lint: export PATH := $(CURDIR)/target/tools/bin:$(PATH)
lint: ## formatting, clippy, documentation, dependencies; warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items
	@command -v cargo-deny >/dev/null || \
	  { echo 'make lint: SKIPPED the dependencies: there is no cargo-deny (cargo install --locked cargo-deny)' >&2; exit; }; \
	timeout 60 cargo-deny --workspace fetch db 2>/dev/null && advisories=advisories || \
	  echo 'make lint: SKIPPED the advisories: their database cannot be had' >&2; \
	cargo-deny --workspace --locked check $$advisories bans licenses sources

fmt: ## format the sources
	$(CARGO) fmt --all

doc: ## build the documentation of the libraries
	$(CARGO) doc --locked --workspace --no-deps

# Each prints the plain read of the same data by two threads, of the same interleaved rounds, and its ratio to that.
bench: ## measure the serialisation formats, and each kernel beside a plain read of the same numbers
	$(CARGO) build --release --locked --package task-proto --package task-rpc --examples
	$(OUT)/examples/codecs
	$(OUT)/examples/mean_median_speed
	$(OUT)/examples/mode_speed
	$(OUT)/examples/text_speed

# ROWS=, ROUNDS=, FILES= and LIMIT= take less; CALLS= and FLIGHT= for the calls. It takes a quarter of an hour.
bench-peers: task rpc ## measure this project beside datamash, numpy, scipy, polars, duckdb, tarpc, tonic and Go's net/rpc
	python3 bench/peers/peers.py
	python3 bench/peers/calls/calls.py

clean: ## remove everything that was built
	$(CARGO) clean
	rm -rf bin

# Other programs are called `task` too (Taskwarrior, go-task). Ours names TASK_RPC_BIN, so nothing need be run to know.
# Not every shell replaces the ~ of PREFIX=~/.local; the one below does, so only what it made of it goes into the unit.
install: ## install both programs, the manual page and the systemd user units under PREFIX (/usr/local)
	@test -x bin/task && test -x bin/task-rpc || { echo 'make install: build first: make task rpc' >&2; exit 1; }
	@case '$(DESTDIR)$(PREFIX)' in *[[:space:]]*) \
	  echo 'make install: PREFIX and DESTDIR may not contain spaces' >&2; exit 1;; \
	esac
	@prefix=$(PREFIX); root=$(DESTDIR)$$prefix; bin=$$root/bin; \
	if { [ -e "$$bin/task" ] || [ -L "$$bin/task" ]; } && ! grep -qs TASK_RPC_BIN "$$bin/task"; then \
	  echo "make install: $$bin/task is another program (Taskwarrior and go-task have that name too);" >&2; \
	  echo "  it was left alone. Choose another place: make install PREFIX=DIR" >&2; exit 1; \
	fi; \
	man=$$root/share/man/man1; units=$$root/share/systemd/user; \
	case $$prefix in /*) from=$$prefix;; *) from=$(CURDIR)/$$prefix;; esac; \
	install -d "$$bin" "$$man" "$$units" && \
	install -m 755 bin/task bin/task-rpc "$$bin/" && \
	bin/task man > "$$man/task.1" && \
	sed "s|/usr/local/bin|$$from/bin|" systemd/task.service > "$$units/task.service" && \
	cp systemd/task.socket "$$units/" && \
	echo "installed $$bin/task and $$bin/task-rpc" || exit 1; \
	other=$$(command -v task || true); \
	if [ -n "$$other" ] && [ "$$other" != "$$prefix/bin/task" ]; then \
	  echo "note: \`task\` in your PATH is $$other"; \
	fi
