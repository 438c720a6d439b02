# `make demo` and `make test` set up what they need: .venv and the locked dependencies, again only when a lock changes.

VENV := .venv
# An existing .venv keeps its Python; PYTHON=python3.12 chooses another and makes .venv anew.
PYTHON ?= $(firstword $(wildcard $(VENV)/bin/python) python3)
VERSION := $(lastword $(shell { $(PYTHON) -V || true; } 2>&1))
RUNTIME := $(VENV)/requirements.$(VERSION)
TESTING := $(VENV)/requirements-test.$(VERSION)
PIP := -m pip install --disable-pip-version-check --no-deps
# What the wheels of MXNet and its neighbours were tried with; python_requires in setup.py has the oldest.
PYTHONS := 3.10 3.11 3.12 3.13 3.14

.PHONY: help demo test lint bench parity image image-gpu image-serve sdk-v2 sdk-v3 clean check-machine

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /make \1\t/p' Makefile

demo: $(RUNTIME) ## train on drawn photos, evaluate, serve; DATA=/path/to/oxford-iiit-pet takes the real ones
	$(VENV)/bin/python container/demo.py $(if $(DATA),--data "$(DATA)") $(if $(EPOCHS),--epochs $(EPOCHS))

test: $(TESTING) ## run the test suite
	$(VENV)/bin/pytest --numprocesses logical --maxprocesses 4 --dist loadfile

lint: $(TESTING) ## check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(TESTING) ## measure everything beside its peers; DATA=/path/to/oxford-iiit-pet, STAGES="engine server"
	$(if $(DATA),GLUONSEG_BENCH_DATA="$(DATA)") $(VENV)/bin/python -m benchmarks $(STAGES)

parity: $(TESTING) .venv-parity/requirements.$(VERSION) ## compare networks with those of PyTorch's projects; installs 3 GB
	.venv-parity/bin/python benchmarks/parity/theirs.py build/parity
	$(VENV)/bin/python -m benchmarks.parity build/parity

image: ## build the Docker image gluonseg; BASE=gluonseg-base takes another base image
	docker/build.sh $(if $(BASE),--base $(BASE))

image-gpu: ## build gluonseg:gpu, which runs on NVIDIA GPUs and without one
	docker/build.sh --gpu $(if $(BASE),--base $(BASE))

image-serve: ## build gluonseg:serve, the small image that uses a model and cannot train
	docker/build.sh --serve $(if $(BASE),--base $(BASE))

sdk-v2: .venv-sdk-v2/requirements.$(VERSION) ## SageMaker's SDK v2 for local mode, in .venv-sdk-v2

sdk-v3: .venv-sdk-v3/requirements.$(VERSION) ## SageMaker's SDK v3 for local mode, in .venv-sdk-v3

clean: ## remove .venv and everything else that the targets made
	rm -rf $(VENV) .venv-sdk-v2 .venv-sdk-v3 .venv-parity build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests container local_mode benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Run by a Python of the right version: what its packages need that pip cannot install.
define CHECK_MACHINE
import ctypes, importlib.util, os, platform, re, shutil, sys, sysconfig
system = " ".join((platform.system(), platform.machine(), *platform.libc_ver())).strip()
if not re.match(r"Linux x86_64 glibc 2\.(2[89]|[3-9]\d)", system):
    sys.exit(f"gluonseg needs x86_64 Linux with glibc 2.28 or newer, and this is {system}: use Debian 12 in a container")
def can_load(library):
    try: return ctypes.CDLL(library)
    except OSError: return None
python = "python%d.%d" % sys.version_info[:2]
compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
parts = [("Python's venv module", python + "-venv", importlib.util.find_spec("ensurepip")),
         ("a C compiler", "gcc libc6-dev", shutil.which(compiler.split()[0])),
         ("Python.h", python + "-dev", os.path.isfile(sysconfig.get_paths()["include"] + "/Python.h")),
         ("libgomp.so.1", "libgomp1", can_load("libgomp.so.1")),
         ("libquadmath.so.0", "libquadmath0", can_load("libquadmath.so.0"))]
missing = [part[:2] for part in parts if not part[2]]
if missing:
    names, packages = zip(*missing)
    apt = "apt-get" if os.geteuid() == 0 else "sudo apt-get"
    sys.exit(f"gluonseg cannot be installed yet: this machine lacks {', '.join(names)}. "
             f"On Debian or Ubuntu: {apt} update && {apt} install -y {' '.join(packages)}")
endef
export CHECK_MACHINE

check-machine: ## say in one line what this machine lacks to run gluonseg, and how to install it
	@command -v $(PYTHON) >/dev/null || { \
	    echo "gluonseg: there is no '$(PYTHON)' here: apt-get install python3, or name one, PYTHON=python3.12" >&2; exit 1; }
	@test "$(filter $(PYTHONS:=.%),$(VERSION))" || { \
	    echo "gluonseg needs CPython $(firstword $(PYTHONS)) to $(lastword $(PYTHONS)), and $(PYTHON) is" \
	        $$($(PYTHON) -V 2>&1)": name another, PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -I -c "$$CHECK_MACHINE"

# requirements.txt for running, requirements-test.txt for developing. Nothing is fetched that the locks do not name:
# setuptools comes first, so that the packages that exist only as source are built with it.
$(VENV)/%.$(VERSION): docker/%.txt docker/requirements-build.txt setup.py
	@$(MAKE) -s check-machine
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

.venv-parity/requirements.$(VERSION): benchmarks/parity/requirements.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python $(PIP) --require-hashes -r $<
	@touch $@
