# Two targets for a fresh machine with python3, its venv module and make:
#   make demo   2,000 real sockets on a real server, and the report
#   make test   the whole test suite

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check
SOURCES := gserver loadtests tests setup.py

.PHONY: demo test lint types clean

demo: $(VENV)/.demo
	$(VENV)/bin/loadtests run c2k

test: lint types
	$(VENV)/bin/pytest

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

$(VENV)/.test: setup.py
	@echo "Installing into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.demo
