# Each target does its own set-up: a machine needs Python 3.11 or newer, make, and on the first call a network.
# Flags for the program behind a target: make quickstart ARGS="--epochs 2", make test ARGS="-k resume".

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# Another version of Ray in its own environment, which takes all other packages from $(VENV).
OTHER_RAY = .venv-ray-$(RAY)
SITE = import sysconfig; path = sysconfig.get_path("purelib")
RAY_TESTS = tests/cluster/test_launchers.py tests/cluster/test_access.py tests/faults/test_09_control_plane.py \
  tests/tuning/test_sweeps.py::test_a_sweep_whose_driver_is_killed_resumes_with_every_trial_once_and_every_epoch_once

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow test-all test-ray chaos lint format docs constraints

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

quickstart: $(INSTALLED) ## train and analyze a small VOLO on this machine, no download
	$(PY) -m jobs.pipeline --recipe quickstart --no-show $(ARGS)

# Half of the time, a test waits for a process that it has started. Threads that wait must leave their core to another.
test test-slow test-all: export OMP_WAIT_POLICY = passive
# Hundreds of processes are started; where bytecode is not kept, each would compile the sources again.
test test-slow test-all: export PYTHONDONTWRITEBYTECODE =
test: TOGETHER = -n 3 --dist worksteal
test-slow test-all: TOGETHER = -n 2 --dist worksteal

test: $(INSTALLED) ## run the tests that need no GPU and little time
	$(PY) -m pytest $(TOGETHER) $(ARGS)

test-slow: $(INSTALLED) ## run the tests left out by default
	$(PY) -m pytest $(TOGETHER) -m slow $(ARGS)

test-all: $(INSTALLED) ## run both: an hour and a half on two cores
	$(PY) -m pytest $(TOGETHER) -m "slow or not slow" $(ARGS)

test-ray: $(INSTALLED) ## test trainings, sweeps and access on another version of Ray: make test-ray RAY=2.55.1
	@test -n "$(RAY)" || { echo "RAY must name a version of Ray, as in make test-ray RAY=2.55.1"; exit 2; }
	test -x $(OTHER_RAY)/bin/ray || $(PY) -m venv --clear $(OTHER_RAY)
	test -x $(OTHER_RAY)/bin/ray || $(OTHER_RAY)/bin/python -m pip install --quiet --no-deps ray==$(RAY)
	$(PY) -c '$(SITE); print(f"import site; site.addsitedir({path!r})")' \
	  > "$$($(OTHER_RAY)/bin/python -c '$(SITE); print(path)')/all-the-rest.pth"
	$(OTHER_RAY)/bin/python -m pytest -m "slow or not slow" $(RAY_TESTS) $(ARGS)

chaos: $(INSTALLED) ## kill and damage a run on Ray for ten minutes, and compare what comes out
	$(PY) -m tests.faults.chaos --minutes 10 $(ARGS)

lint: $(INSTALLED) ## check style, imports, format and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

format: $(INSTALLED) ## fix what of style and format can be fixed without a decision
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

docs: $(INSTALLED) ## build the documentation into site/, every warning an error; needs no network
	PYTHONPATH=. $(PY) -m mkdocs build --strict $(ARGS)

constraints: $(INSTALLED) ## write the installed versions into constraints.txt
	$(PY) -m pip freeze --all --exclude-editable > constraints.new
	{ echo '# Made by `make constraints`: the versions tested together. Torch pins its own CUDA packages.'; \
	  sed -E '/^(pip|triton|nvidia-[^=]*|cuda-[^=]*)==/d; s/\+[A-Za-z0-9.]+$$//' constraints.new; } > constraints.txt
	rm constraints.new
	touch $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@
