# `make demo` and `make test` set up what they need: .venv and the locked dependencies, again only when a lock changes.

VENV := .venv
# An existing .venv keeps its Python; PYTHON=python3.12 chooses another and makes .venv anew.
PYTHON ?= $(firstword $(wildcard $(VENV)/bin/python) python3)
VERSION := $(lastword $(shell { $(PYTHON) -V || true; } 2>&1))
RUNTIME := $(VENV)/requirements.$(VERSION)
TESTING := $(VENV)/requirements-test.$(VERSION)
PIP := -m pip install --disable-pip-version-check --no-deps

.PHONY: help demo test lint bench faults fault-table image image-gpu sdk-v2 sdk-v3 clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /make \1\t/p' Makefile

demo: $(RUNTIME) ## train on drawn photos, evaluate, serve; DATA=/path/to/oxford-iiit-pet takes the real ones
	$(VENV)/bin/python container/demo.py $(if $(DATA),--data "$(DATA)") $(if $(EPOCHS),--epochs $(EPOCHS))

test: $(TESTING) ## run the test suite
	$(VENV)/bin/pytest

lint: $(TESTING) ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(TESTING) ## measure everything beside its peers, which are installed for it; DATA=/path/to/oxford-iiit-pet, STAGES="engine server"
	$(VENV)/bin/python $(PIP) --quiet --require-hashes -r benchmarks/requirements.txt
	$(if $(DATA),GLUONSEG_BENCH_DATA="$(DATA)") $(VENV)/bin/python -m benchmarks $(STAGES)

faults: $(TESTING) ## run the tests of all faults in docs/reliability.md
	$(VENV)/bin/pytest -m "fault and (slow or not slow)"

fault-table: $(TESTING) ## write the table of faults in docs/reliability.md anew
	PYTHONPATH=tests $(VENV)/bin/pytest --collect-only -q -m fault -p fault_table --fault-table docs/reliability.md >/dev/null

image: ## build the Docker image gluonseg; BASE=gluonseg-base takes another base image
	docker/build.sh $(if $(BASE),--base $(BASE))

image-gpu: ## build gluonseg:gpu, which runs on NVIDIA GPUs and without one
	docker/build.sh --gpu $(if $(BASE),--base $(BASE))

sdk-v2: .venv-sdk-v2/requirements.$(VERSION) ## SageMaker's SDK v2 for local mode, in .venv-sdk-v2

sdk-v3: .venv-sdk-v3/requirements.$(VERSION) ## SageMaker's SDK v3 for local mode, in .venv-sdk-v3

clean: ## remove .venv and everything else that the targets made
	rm -rf $(VENV) .venv-sdk-v2 .venv-sdk-v3 build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests container local_mode benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# requirements.txt for running, requirements-test.txt for developing. Nothing is fetched that the locks do not name:
# setuptools comes first, so that the packages that exist only as source are built with it.
$(VENV)/%.$(VERSION): docker/%.txt docker/requirements-build.txt setup.py
	@command -v $(PYTHON) >/dev/null || { \
	    echo "gluonseg: there is no '$(PYTHON)' here: apt-get install python3, or name one, PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -I src/gluonseg/doctor.py
	@test "$$($(VENV)/bin/python -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" || $(PYTHON) -m venv --clear $(VENV)
	@{ $(VENV)/bin/python $(PIP) --require-hashes -r docker/requirements-build.txt && \
	   $(VENV)/bin/python $(PIP) --require-hashes --no-build-isolation -r $< && \
	   $(VENV)/bin/python $(PIP) --no-index --no-build-isolation --editable .; } || { \
	    echo "gluonseg: the install stopped; pip says above why (often no network, or no wheel for Python $(VERSION))" >&2; exit 1; }
	@touch $@

# The SDKs need other versions than training does, so each has its own environment; of gluonseg they need no network
# and none of its dependencies, only its metric definitions and prepare commands.
.venv-sdk-%/requirements.$(VERSION): local_mode/sdk_%/requirements.txt docker/requirements-build.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	    echo "gluonseg: SageMaker's SDK needs Python 3.10 to 3.13: name one, PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	@{ $(@D)/bin/python $(PIP) --require-hashes -r docker/requirements-build.txt && \
	   $(@D)/bin/python $(PIP) --require-hashes --no-build-isolation -r $< && \
	   $(@D)/bin/python $(PIP) --no-index --no-build-isolation --editable .; } || { \
	    echo "gluonseg: the install of the SDK stopped; pip says above why" >&2; exit 1; }
	@touch $@
