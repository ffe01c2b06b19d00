# make demo: a simulated warehouse, a whole night, and what came out.   make test: lint, types, import fences, all tests.
# Nothing but Linux, make and Python >= 3.11 is expected; the environment is .venv, from requirements.lock, hashes checked.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
STAMP := .venv/.tandem-ready

.PHONY: help demo test chaos lint audit env lock clean

help:  ## this text
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null || grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST)

demo: env  ## simulate a small warehouse, run a whole night, show what it made
	$(BIN)/python -m jobs demo

test: lint  ## lint, then every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15

chaos: env  ## the fault campaign: kill -9 at random points of every step, and all else of the fault table; about two hours, and it may be begun again
	$(BIN)/python tests/benchmarks/chaos.py
	$(BIN)/python tests/benchmarks/readme.py

lint: env  ## style, types of the light modules, import fences
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env: $(STAMP)  ## the environment in .venv (about 7 GB), Java where this user may install it, Delta's jars

# uv is the one package pip installs, from its own stanza of the lock; uv installs the rest, ten times faster.
$(STAMP): requirements.lock pyproject.toml
	@python=""; \
	for candidate in python3.13 python3.12 python3.11 python3; do \
	  if command -v $$candidate >/dev/null && $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "make: no Python 3.11 or later found; on Debian and Ubuntu: sudo apt-get install -y python3 python3-venv" >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "making .venv with $$($$python --version)"; \
	  if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "make: $$python has no venv module; on Debian and Ubuntu: sudo apt-get install -y python$$version-venv" >&2; exit 1; \
	  fi; \
	  $$python -m venv --clear .venv; \
	fi
	@echo "installing requirements.lock into .venv"
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
	@$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@$(BIN)/python -m jobs doctor --install
	@touch $@

audit: env  ## known vulnerabilities of the locked packages, as a test asks too; fails where the index cannot be asked
	$(BIN)/uv tool run pip-audit@2.10.1 --strict --require-hashes --disable-pip -r requirements.lock

lock: env  ## resolve pyproject.toml anew into requirements.lock (hashes, no URLs)
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header -o requirements.lock

clean:  ## remove the environment, the demo's lake and caches
	rm -rf .venv .tandem *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache spark-warehouse
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
