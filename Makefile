# Two commands are enough: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.osler-installed
PYTEST := -m pytest -q -n auto
QUICK := not slow and not gpu and not true_size

.PHONY: help setup demo test test-integration test-all test-true-size gpu test-oldest check docs format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)  ## make the virtual environment .venv, pinned by constraints.txt

# torch goes first and alone: with it in place nothing else can bring another build of it.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Osler needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,tensorboard,medical,judge]'
	@touch $(STAMP)

demo: setup  ## train a medical reasoner on this machine and look at the result
	$(BIN)/osler demo

test: setup  ## run the fast tests
	$(BIN)/python $(PYTEST) --dist loadfile -m '$(QUICK) and not integration'

test-integration: setup  ## run the tests that train a policy, write a report, or start a process, a server or a browser
	$(BIN)/python $(PYTEST) --dist loadfile -m '$(QUICK) and integration'

test-all: setup  ## run every test, the slow ones too; DeepSpeed is installed for its own
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[deepspeed]'
	$(BIN)/python $(PYTEST) -m 'not gpu and not true_size'

test-true-size: setup  ## run every family at its published size (24 GB of memory, 30 GB of disk, an hour)
	$(BIN)/python -m pytest -q -m true_size

gpu: setup  ## check and measure training on one GPU, in at most ten minutes; results in build/gpu
	PYTHONPATH=. $(BIN)/python tests/gpu/first_contact.py

test-oldest:  ## run the tests of CI with the lowest versions that pyproject.toml admits (4 GB: the oldest torch comes with CUDA)
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	$(PYTHON) tools/oldest.py > .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-oldest/constraints.txt torch
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-oldest/constraints.txt -e '.[dev,tensorboard,medical,judge]'
	.venv-oldest/bin/python $(PYTEST) --dist loadfile -m '$(QUICK)'

docs: setup  ## build the documentation in build/site; a broken link is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	rm -rf build/docs build/site
	mkdir -p build/docs/benchmarks build/docs/src/osler/policies/osler-tiny
	cp -r docs README.md CONTRIBUTING.md CHANGELOG.md LICENSE CITATION.cff build/docs
	cp benchmarks/README.md build/docs/benchmarks
	cp src/osler/policies/osler-tiny/README.md build/docs/src/osler/policies/osler-tiny
	mkdir -p build/docs/src/osler/policies/osler-tiny-study
	cp src/osler/policies/osler-tiny-study/README.md build/docs/src/osler/policies/osler-tiny-study
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: setup  ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove the virtual environment and caches
	rm -rf .venv .venv-oldest build .pytest_cache .mypy_cache .ruff_cache .hypothesis
