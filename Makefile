# Each target does its own set-up: a machine needs Python 3.11 or newer, make, and on the first call a network.
# Flags for the program behind a target: make quickstart ARGS="--epochs 2", make test ARGS="-k resume".

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-slow test-all chaos lint docs constraints

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

quickstart: $(INSTALLED) ## train and analyse a small VOLO on this machine, no download
	$(PY) -m jobs.pipeline --recipe quickstart --no-show $(ARGS)

test: $(INSTALLED) ## run the tests that need no GPU and little time
	$(PY) -m pytest $(ARGS)

test-slow: $(INSTALLED) ## run the tests left out by default
	$(PY) -m pytest -m slow $(ARGS)

test-all: $(INSTALLED) ## run both: at most an hour on two cores
	$(PY) -m pytest -m "slow or not slow" $(ARGS)

chaos: $(INSTALLED) ## kill and damage a run on Ray for ten minutes, and compare what comes out
	$(PY) -m tests.faults.chaos --minutes 10 $(ARGS)

lint: $(INSTALLED) ## check style and imports
	$(PY) -m ruff check $(ARGS)

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
