# `make demo` and `make test` are all that a newcomer needs; both set up what they use.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
AS_ROOT = $(if $(filter-out 0,$(shell id -u)),sudo)
# The namespace of the git branch says where tables and runs are; DAGSTER_HOME goes before it.
IN_NAMESPACE = export DAGSTER_HOME="$$($(BIN)/pattern-platform namespace current --make --dagster-home)" &&

LOCKED = --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url --quiet

.PHONY: setup demo test soak test-services dev lint format definitions check wheel image bench lock clean

setup: .venv/installed  ## the virtual environment, from the lock, bytecode compiled

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --no-deps --editable .
	touch $@

demo: setup  ## materialize the example platform for the sample days
	$(IN_NAMESPACE) $(BIN)/pattern-platform demo

test: setup  ## the default suite: Python packages only
	$(BIN)/python -m pytest

soak: .venv/services  ## kills, races and failing file operations in number: SOAK of each, 500 unless told; an hour or more
	$(BIN)/python -m pytest -m soak -rP --show-capture=stdout

test-services: .venv/services  ## the tests against real servers: Debian's are installed when they are not there
	command -v redis-server && command -v ip && ls /usr/lib/postgresql/*/bin/postgres || { \
		$(AS_ROOT) apt-get update --quiet && \
		$(AS_ROOT) env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes \
		--no-install-recommends redis-server postgresql iproute2; }
	$(BIN)/python -m pytest -m "services and not soak"

.venv/services: requirements-services.lock .venv/installed  ## and what these tests need besides: Sail, Celery, object stores
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode requirements-services.lock
	$(BIN)/uv pip install --quiet --no-deps --editable .
	touch $@

dev: setup  ## the Dagster UI with its daemon on http://127.0.0.1:3000
	$(IN_NAMESPACE) $(BIN)/dg dev -w workspace.yaml --host 127.0.0.1 --port 3000

lint: setup
	$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/ty check && $(BIN)/hadolint Dockerfile

format: setup
	$(BIN)/ruff check --fix && $(BIN)/ruff format

definitions: setup  ## load both code locations; `dg check defs` would load the first alone
	$(IN_NAMESPACE) $(BIN)/dagster definitions validate -w workspace.yaml

check: setup  ## a sample day with its checks, any of which fails the build; JUnit XML in build/checks
	$(IN_NAMESPACE) $(BIN)/pattern-platform check --select raw/visits --select clean/visits --select quarantine/visits \
		--select aggregated/visits_by_hour --from 2024-05-06-00:00 --to 2024-05-06-23:00 --junit-xml build/checks/hours.xml
	$(IN_NAMESPACE) $(BIN)/pattern-platform check --select aggregated/visits_cube --partition 2024-05-06 --junit-xml build/checks/day.xml

wheel: setup  ## the wheel in dist, and tried in an environment of its own, outside the checkout
	rm -rf dist build/wheel
	$(BIN)/uv build --quiet --out-dir dist .
	$(PYTHON) -m venv --without-pip build/wheel
	$(BIN)/uv pip sync --quiet --python build/wheel --require-hashes requirements.lock
	$(BIN)/uv pip install --quiet --python build/wheel --no-deps dist/*.whl
	cd / && $(CURDIR)/build/wheel/bin/pattern-platform --help > /dev/null
	cd / && $(CURDIR)/build/wheel/bin/python -c "from pattern_platform import *"

image:  ## the container image, and the demo in it
	docker build --tag pattern-platform .
	docker run --rm pattern-platform pattern-platform --help > /dev/null
	docker run --rm --read-only --tmpfs /tmp pattern-platform pattern-platform demo

bench: setup  ## ratios against the bare libraries and the official IO manager
	$(BIN)/python -m benchmarks

lock:  ## names, versions and hashes of everything, for Linux and macOS, no address of any registry
	$(BIN)/uv pip compile pyproject.toml --group dev $(LOCKED) --upgrade --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev --group services --constraint requirements.lock $(LOCKED) --upgrade \
		--output-file requirements-services.lock

clean:  ## everything that the other targets made, of the namespace main; `namespace drop` removes the others
	rm -rf .venv .venv-peers .dagster_home data/lake data/warehouse data/exports data/archive data/steps data/logs data/erasures build dist site .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
