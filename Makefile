# `make demo` and `make test` need Python 3.11 or newer and this file; everything else they fetch into .venv.
# All paths are relative, so the checkout may stand anywhere.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check install -qq --constraint constraints.txt
JS := tests/e2e/js
CALL := examples/call
WHOLE := $(JS)/node_modules/.installed $(CALL)/node_modules/.installed
# `make test` plays the phone call of the example, for which a third of its packages is enough.
PACKAGES := $(JS)/node_modules/.installed $(CALL)/node_modules/.phone-call
HELPERS := propagation/python
PYTEST_ARGS ?=
# Most tests wait more than they compute: three keep two cores at work, and each has 1 GB at most. A file's tests stay
# together, in order, with the servers that they share.
PYTEST_WORKERS ?= 3
# A test that hangs prints the stacks of all threads and ends its worker, and a worker that ends is a failure of the test
# that it was at. pytest-xdist would put another worker into its place and, with loadfile, may wait for that for ever.
PARALLEL := -n $(PYTEST_WORKERS) --dist loadfile --max-worker-restart 0 \
   -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true
# Tests start grafter hundreds of times, and each time would compile it anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo example test check style bench soak soak-troubles pictures proto lock clean chromium

help:
	@echo "make demo    set up, play one call through every door, print the joined trace"
	@echo "make example set up, run the whole reference call: twenty programs, one trace"
	@echo "make test    set up, lint, type-check, run every test"
	@echo "make soak    the slow tests, and the property tests with many more examples"
	@echo "             soak-troubles: an hour of them at random, the books after each minute (MINUTES, SEED, STORE)"
	@echo "make bench   measure grafter beside a null sink and a raw proxy"
	@echo "make pictures  make docs/lookup/*.png anew"
	@echo "make proto   generate grafter/otlp/*_pb2.py from proto/"
	@echo "make lock    write constraints.txt from what is installed"
	@echo "make clean   remove what make made"

demo: $(VENV)/.runtime
	@$(RUN) -m grafter demo

# ARGS="--kill media-worker", --keep: see examples/call/README.md.
example: $(VENV)/.dev $(CALL)/node_modules/.installed chromium
	@$(RUN) $(CALL) $(ARGS)

# What pip, npm and the system's package manager fetch is fetched beside each other. mypy is alone on a core for most of a
# minute: the tests run beside it, and what it says comes after theirs. Either fails the run.
test:
	@$(MAKE) --no-print-directory --jobs=4 GOAL=$@ style $(PACKAGES) chromium
	$(RUN) -m mypy >$(VENV)/types 2>&1 & types=$$!; $(RUN) -m pytest $(PARALLEL) $(PYTEST_ARGS); failed=$$?; \
	 wait $$types || failed=1; cat $(VENV)/types; exit $$failed

check: style
	$(RUN) -m mypy

style: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# The lookup page's tests and the call's page drive the system's Chromium. Where there is none and none can be had they
# are left out, and say so.
chromium:
	@for one in "$$CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable; do \
	   if [ -n "$$one" ] && command -v "$$one" >/dev/null; then exit 0; fi; \
	 done; \
	 as=; [ "$$(id -u)" = 0 ] || as="sudo -n"; \
	 if command -v apt-get >/dev/null; then $$as apt-get update -qq && $$as apt-get install -qq -y chromium; \
	 elif command -v dnf >/dev/null; then $$as dnf install -qy chromium; \
	 elif command -v apk >/dev/null; then $$as apk add -q chromium; \
	 else false; fi >/dev/null 2>&1 || \
	   echo "SKIPPED: what needs a browser (no Chromium; the system's package manager gave none)"

soak: $(VENV)/.dev $(WHOLE)
	$(RUN) -m pytest -m slow $(PYTEST_ARGS)
	$(RUN) -m pytest -m "hypothesis and not slow" --hypothesis-profile deep $(PYTEST_ARGS)

# make soak-troubles MINUTES=10 SEED=7 STORE=redis
soak-troubles: $(VENV)/.dev
	$(RUN) -m tests.faults.random_troubles $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) \
	   $(if $(STORE),--store $(STORE))

bench: $(VENV)/.dev
	$(RUN) -m bench
	$(RUN) -m bench.held
	$(RUN) -m bench.join
	$(RUN) -m bench.turns
	$(RUN) -m bench.page
	$(RUN) -m bench.sampling
	$(RUN) -m bench.realtime
	$(RUN) -m bench.recorder
	$(RUN) -m bench.webhook
	$(RUN) -m bench.calls --postgres
	$(RUN) -m bench.redis_memory
	$(RUN) -m bench.failover
	$(RUN) -m bench.half_load --systems "grafter redis"

pictures: $(VENV)/.dev chromium
	PICTURES=docs/lookup $(RUN) -m pytest tests/web/test_page_browser.py -k pictures_of_the_docs

proto: $(VENV)/.dev
	$(RUN) -m grpc_tools.protoc --proto_path=proto --python_out=grafter/otlp --pyi_out=grafter/otlp proto/*.proto

lock: $(VENV)/.dev
	@{ sed -n '/^#/p' constraints.txt; \
	   $(RUN) -m pip list --format=freeze --exclude otel-grafter --exclude grafter-propagation | LC_ALL=C sort -f; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) $(JS)/node_modules $(CALL)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist grafter/otlp/*.so
	rm -rf *.egg-info $(HELPERS)/*.egg-info $(HELPERS)/build $(HELPERS)/.ruff_cache
	find grafter propagation tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# pip and setuptools first, by their locked versions: the build then needs nothing that the lock does not name.
$(VENV)/.runtime: pyproject.toml constraints.txt grafter/otlp/_split.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	   echo "grafter needs Python 3.11 or newer, and \`$(PYTHON)\` is: $$($(PYTHON) --version 2>&1)."; \
	   echo "Name another one: make PYTHON=python3.12 $(or $(GOAL),$(MAKECMDGOALS))"; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) pip setuptools
	@$(PIP) --no-build-isolation --editable .
	@touch $@

# Of eight thousand files the tests import a part, which is compiled when it is.
$(VENV)/.dev: $(VENV)/.runtime $(HELPERS)/pyproject.toml
	@echo "adding the test tools (once)"
	@$(PIP) --no-compile --group dev
	@$(PIP) --no-build-isolation --no-deps --editable $(HELPERS)
	@touch $@

# Without Node the JavaScript Agents SDK cannot run; its tests then skip, and say so at the end of the report.
define NPM_CI
	@mkdir -p $*/node_modules
	@if [ $*/node_modules/.installed -nt $*/package.json ] && [ $*/node_modules/.installed -nt $*/package-lock.json ]; then \
	   touch $@; \
	 elif ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null || ! command -v npm >/dev/null; then \
	   echo "SKIPPED: what runs in Node, $* (it needs Node 20 or newer with npm on the PATH)"; \
	 elif (cd $* && npm ci $(1) --ignore-scripts --no-audit --no-fund --loglevel=error); then \
	   touch $@; \
	 else \
	   echo "SKIPPED: what runs in Node, $* (npm could not fetch its packages, see above)"; \
	 fi
endef

$(WHOLE): %/node_modules/.installed: %/package.json %/package-lock.json
	$(call NPM_CI)

$(CALL)/node_modules/.phone-call: %/node_modules/.phone-call: %/package.json %/package-lock.json
	$(call NPM_CI,--omit=optional)
