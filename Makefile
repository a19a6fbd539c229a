# Targets for a fresh machine with python3, its venv module and make:
#   make demo    2,000 real sockets on a real server, and the report
#   make test    the whole test suite
#   make bench   the server beside its peers, in about ten minutes; JOBS=, ROUNDS= and OPTIONS= change what is measured
#                (.venv/bin/python -m benchmarks --help). Needs gcc; a peer that is not installed is skipped

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check
SOURCES := gserver loadtests benchmarks tests setup.py
JOBS ?= echo json churn idle tls handshakes cluster
ROUNDS ?= 3
OPTIONS ?=

.PHONY: demo test bench lint types clean

demo: $(VENV)/.demo
	$(VENV)/bin/loadtests run c2k

test: lint types
	$(VENV)/bin/pytest

bench: $(VENV)/.bench
	$(VENV)/bin/python -m benchmarks $(JOBS) --rounds $(ROUNDS) $(OPTIONS)

lint: $(VENV)/.test
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)

types: $(VENV)/.test
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info

$(VENV)/.demo: setup.py
	@echo "Installing into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[loadtests]'
	@touch $@

$(VENV)/.bench: setup.py
	@echo "Installing into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable .
	@$(PIP) uvloop || echo "uvloop cannot be installed: its servers will be skipped"
	@touch $@

$(VENV)/.test: setup.py
	@echo "Installing into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.demo
