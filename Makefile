# Targets for a fresh machine with python3, its venv module and make:
#   make demo    2,000 real sockets on a real server, and the report
#   make test    the test suite, in about seven minutes; PROCESSES= is how many files are tested at a time
#   make test-long
#                the tests that take longest, in about five minutes
#   make sanitize
#                the tests of the compiled message loop, compiled with AddressSanitizer and UndefinedBehaviorSanitizer; needs gcc
#   make baselines
#                results/baselines again: gserver against its peers, and its two engines, in pairs; about 70
#                minutes; BASELINES= makes some of them only. And README's pictures of them
#   make docs    the documentation site, in build/docs
#   make bench   the server beside its peers, in about ten minutes; JOBS=, ROUNDS= and OPTIONS= change what is measured
#                (.venv/bin/python -m benchmarks --help). Needs gcc; a peer that is not installed is skipped

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check
# One line where Python is too old, for which pip needs a hundred.
TOO_OLD = $(PYTHON) is Python %d.%d, and gserver needs 3.11 or newer: make PYTHON=...
CHECK = import sys; sys.exit(sys.version_info < (3, 11) and "$(TOO_OLD)" % sys.version_info[:2])
NEW_ENVIRONMENT = $(PYTHON) -c '$(CHECK)' && $(PYTHON) -m venv $(VENV)
SOURCES := gserver loadtests benchmarks tests docs/conf.py setup.py
PROCESSES ?= 6
TESTS = $(VENV)/bin/pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
JOBS ?= echo json churn idle tls handshakes cluster
ROUNDS ?= 3
OPTIONS ?=

.PHONY: demo test test-long sanitize baselines docs bench lint types clean

demo: $(VENV)/.demo
	@# Status 3: the machine was too busy for the figures to be believed; the run has printed that.
	$(VENV)/bin/loadtests run c2k || [ $$? = 3 ]

# What takes longest is left out: make test-long.
# Most tests wait for processes: several files at a time, and more than there are cores. Those that load the machine come
# last.
test: lint types
	@# Once, instead of in each process: the modules with their assertions are compiled.
	@$(VENV)/bin/pytest --collect-only -q > /dev/null || true  # an error is shown by the tests
	$(TESTS)

# Swarms, browsers, networks of hosts, crowds of clients, the runbook.
test-long: $(VENV)/.test
	$(TESTS) -m "long and not longhaul"

# Frames on the stack are left out (asan-stack=0), because greenlet copies them. What is found is printed from a file:
# pytest holds back what a test prints, and the process ends there.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=undefined --param asan-stack=0
SANITIZED_TESTS := $(addprefix tests/gserver/, engine/test_native_loop.py engine/test_message_loop.py engine/test_schedulers.py \
                     $(addprefix connection/test_, connection.py time_slice.py send_nowait.py))

sanitize: $(VENV)/.test
	@rm -rf $(SANITIZED)
	@mkdir -p $(SANITIZED)
	@cp -r gserver loadtests tests pyproject.toml $(SANITIZED)
	@rm -f $(SANITIZED)/gserver/*.so
	@cd $(SANITIZED) && python=$(CURDIR)/$(VENV)/bin/python && \
	ask() { $$python -c "import sysconfig as the; print(the.$$1)"; } && \
	gcc -shared -fPIC -g -O1 -fno-omit-frame-pointer $(SANITIZERS) -I"$$(ask 'get_path("include")')" \
	    gserver/_native.c -o gserver/_native"$$(ask 'get_config_var("EXT_SUFFIX")')" && \
	{ LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
	  ASAN_OPTIONS=detect_leaks=0:log_path=report UBSAN_OPTIONS=print_stacktrace=1:log_path=report \
	  $$python -m pytest -p no:cacheprovider -k 'not python_alone' $(SANITIZED_TESTS) || { cat report.* 2>/dev/null; exit 1; }; }

RESULTS := results/baselines
BASELINES := echo/peer:node-echo echo/peer:asyncio-echo echo/peer:uvloop-echo echo/peer:gevent-echo \
             echo/gserver:echo?greenlets=dedicated \
             json/peer:node-json json/peer:asyncio-json json/peer:uvloop-json json/peer:gevent-json
KINDS := latency memory
BASELINE := --seed 1 --fail-on never --markdown
# 9 pairs are the fewest that can call one of 8 figures different, and 4 for memory, which is judged by itself.
LATENCY := --pairs 9 --attempts 12 --users 100 --rate 10 --duration 5
MEMORY := --profile memory --pairs 4 --duration 2
# The profile's users ask in JSON, which a server of echo does not answer.
MEMORY_echo := --message ping --expect ping
MEMORY_json :=

# Only the figures of a run are kept, not its raw data. Of a run that was repeated, only the entry in ab.json is kept.
# Latency takes about 4 minutes for each of them, and memory 4 more.
baselines: $(VENV)/.demo
	@mkdir -p $(RESULTS)
	@$(PIP) uvloop
	@set -e; made() { \
	    name=$$1 service=$$2 other=$$3; shift 3; \
	    rm -rf "$(RESULTS)/$$name"; \
	    $(VENV)/bin/loadtests ab "gserver:$$service" "$$other" "$$@" $(BASELINE) \
	        --results $(RESULTS) --name "$$name" > $(RESULTS)/unfinished.md; \
	    mv $(RESULTS)/unfinished.md "$(RESULTS)/$$name/comparison.md"; \
	    find "$(RESULTS)/$$name" -mindepth 2 -type f ! -name run.json -delete; \
	    for run in "$(RESULTS)/$$name"/*/; do \
	        if grep -q "\"run\": \"$$(basename "$$run")\"" "$(RESULTS)/$$name/ab.json"; then rm -r "$$run"; fi; \
	    done; \
	}; \
	for each in $(BASELINES); do \
	    service=$${each%%/*} other=$${each#*/}; name=$$service-and-$$(echo "$${other#*:}" | tr -c 'a-z\n' '-'); \
	    case $$service in echo) asked="$(MEMORY_echo)";; *) asked="$(MEMORY_json)";; esac; \
	    for kind in $(KINDS); do case $$kind in \
	        latency) made "$$name" "$$service" "$$other" --profile "$$service" $(LATENCY);; \
	        memory) made "$$name-memory" "$$service" "$$other" $(MEMORY) $$asked;; \
	    esac; done; \
	done
	@printf '# gserver beside other servers\n\n' > $(RESULTS)/README.md
	@$(VENV)/bin/loadtests compare $(RESULTS)/*/ --markdown --fail-on never >> $(RESULTS)/README.md
	@$(VENV)/bin/loadtests compare $(RESULTS)/json-and-uvloop-json --pictures docs/pictures --fail-on never > /dev/null

docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build -q -W --keep-going -b html docs build/docs

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
	@$(NEW_ENVIRONMENT)
	@$(PIP) --editable '.[loadtests]'
	@touch $@

$(VENV)/.bench: setup.py
	@echo "Installing into $(VENV) (once)"
	@$(NEW_ENVIRONMENT)
	@$(PIP) --editable .
	@$(PIP) uvloop || echo "uvloop cannot be installed: its servers will be skipped"
	@touch $@

$(VENV)/.docs: setup.py
	@echo "Installing into $(VENV) (once)"
	@$(NEW_ENVIRONMENT)
	@$(PIP) --editable '.[docs]'
	@touch $@

$(VENV)/.test: setup.py
	@echo "Installing into $(VENV) (once)"
	@$(NEW_ENVIRONMENT)
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.demo
