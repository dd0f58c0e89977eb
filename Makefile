# `make demo` and `make test` are all that a newcomer needs; both set up what they use.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
AS_ROOT = $(if $(filter-out 0,$(shell id -u)),sudo)
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home

.PHONY: setup demo test soak test-services dev lint format bench lock clean

setup: .venv/installed  ## the virtual environment, from the lock, bytecode compiled

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --editable .
	touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	mkdir -p $(@D) && cp $< $@

demo: setup $(DAGSTER_HOME)/dagster.yaml  ## materialize the example platform for the sample days
	$(BIN)/pattern-platform demo

test: setup  ## the default suite: Python packages only
	$(BIN)/python -m pytest

soak: setup  ## kills, races and failing file operations in number: SOAK of each, 500 unless told; an hour or more
	$(BIN)/python -m pytest -m soak -rP --show-capture=stdout

test-services: setup  ## the tests against real Redis and PostgreSQL, which are installed when they are not there
	command -v redis-server && ls /usr/lib/postgresql/*/bin/postgres || { $(AS_ROOT) apt-get update --quiet && \
		$(AS_ROOT) env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes \
		--no-install-recommends redis-server postgresql; }
	$(BIN)/python -m pytest -m services

dev: setup $(DAGSTER_HOME)/dagster.yaml  ## the Dagster UI with its daemon on http://127.0.0.1:3000
	$(BIN)/dg dev -w workspace.yaml --host 127.0.0.1 --port 3000

lint: setup
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/ty check

format: setup
	$(BIN)/ruff check --fix && $(BIN)/ruff format

bench: setup  ## ratios against the bare libraries and the official IO manager
	$(BIN)/python -m benchmarks

lock:  ## names, versions and hashes of everything, for Linux and macOS, no address of any registry
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --quiet --upgrade --output-file requirements.lock

clean:  ## everything that the other targets made
	rm -rf .venv .venv-peers .dagster_home data/lake data/warehouse data/exports data/archive data/steps build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
