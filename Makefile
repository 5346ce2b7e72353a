# Targets for people and for CI; `make help` lists them. Everything happens in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A file's tests stay in one process, for they share models; more than four processes would fill small machines.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
NOUN ?= mug
PHOTOS ?= docs/example-photos/mug
DEMO_RUN ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check fix bench bench-methods bench-merge bench-eval bench-protect bench-motion bench-motion-speed bench-3d test-3d docs wheel clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pcs needs Python 3.11 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test,dev]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed

setup: $(VENV)/.installed-dev ## Install everything that development needs

demo: $(VENV)/.installed ## Install, personalize the example photos, show where the pictures are
	@rm -rf $(DEMO_RUN)
	$(BIN)/pcs train image $(PHOTOS) --noun $(NOUN) --out $(DEMO_RUN)

test: $(VENV)/.installed-test ## Install and pass the tests
	$(PYTEST) -m 'not slow and not gpu'

test-slow: $(VENV)/.installed-test ## The tests that train at full length
	$(PYTEST) -m slow

check: $(VENV)/.installed-dev ## Format, lint, types, import contracts, recipes, fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(PYTEST) -m 'not slow and not gpu'

fix: $(VENV)/.installed-dev ## Format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-test ## Measure; writes docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks.run

METHODS ?= runs/bench-methods
# Those that learn a relation, a style or two subjects at once have no row in the table of single subjects.
METHOD_NAMES := $(filter-out %/reversion %/style_friendly %/svdiff_cut_mix,$(patsubst recipes/%.yaml,%,$(wildcard recipes/image/*.yaml)))
METHOD_RECIPES := $(addprefix -r ,$(METHOD_NAMES))

bench-methods: $(VENV)/.installed-test ## Measure every image recipe on six held-out subjects; hours, resumable
	test -e $(METHODS)/benchmark.json || $(BIN)/pcs bench init mini $(METHODS) --subjects 6
	$(BIN)/pcs bench run $(METHODS) $(METHOD_RECIPES) --metrics identity,context,view,copy,drift
	cp tests/benchmarks/methods.md docs/personalization.md
	$(BIN)/pcs bench table $(METHODS) $(METHOD_RECIPES) --format md >> docs/personalization.md
	cat tests/benchmarks/costs.md >> docs/personalization.md
	$(BIN)/python -m tests.benchmarks.costs $(METHOD_NAMES) >> docs/personalization.md

bench-merge: $(VENV)/.installed-test ## Measure merging of what `make bench-methods` learned
	cp tests/benchmarks/merging.md docs/several-subjects.md
	$(BIN)/python -m tests.benchmarks.merging $(METHODS)/jobs >> docs/several-subjects.md

bench-eval: $(VENV)/.installed-test ## Measure what `pcs eval` adds to its encoders
	$(BIN)/python -m tests.benchmarks.evaluation

bench-protect: $(VENV)/.installed-test ## Measure protections on twelve subjects; hours, resumable; into docs/protect.md
	$(BIN)/python -m tests.benchmarks.protection

MOTION ?= runs/bench-motion
SUBJECTS ?= 6

bench-motion: $(VENV)/.installed-test ## Measure motion learned from one clip, with and without debiasing; hours, resumable
	$(BIN)/python -m tests.benchmarks.motion $(MOTION) --subjects $(SUBJECTS)

$(VENV)-3d/.installed: pyproject.toml constraints-3d.txt
	$(PYTHON) -m venv $(VENV)-3d
	$(VENV)-3d/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-3d.txt \
		--editable '.[3d,test]'
	@touch $@

test-3d: $(VENV)-3d/.installed ## Install nerfstudio (8 GB, in .venv-3d) and pass the tests of pcs 3d with it
	OMP_NUM_THREADS=1 $(VENV)-3d/bin/python -m pytest tests/three_d

bench-3d: $(VENV)-3d/.installed ## Measure a step of a scene beside nerfstudio's generfacto
	OMP_NUM_THREADS=1 $(VENV)-3d/bin/python -m tests.benchmarks.three_d

MOTIONDIRECTOR ?= ../MotionDirector

bench-motion-speed: $(VENV)/.installed-test ## Time a motion step beside MotionDirector's own; wants a clone of it
	$(BIN)/python -m tests.benchmarks.motion_speed $(MOTIONDIRECTOR)

docs: $(VENV)/.installed ## Regenerate docs/recipes.md
	$(BIN)/pcs recipes list --markdown > docs/recipes.md

wheel: $(VENV)/.installed-dev ## Build the wheel into dist/
	$(BIN)/python -m build --wheel

clean: ## Remove the environment and what was built
	rm -rf $(VENV) $(VENV)-3d dist build
