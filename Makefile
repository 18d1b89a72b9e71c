.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
# Options for pip: for instance, an index with CPU-only builds of torch.
PIP_OPTIONS ?=
BIN := .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --constraint constraints.txt
EXTRAS := train,book,pipeline,cluster,federation,dev
CORE := $(BIN)/python -m heterofl_core
HOURS ?= 1
PLAN ?= cpu


.PHONY: help quickstart run course book study results status federation test federation-test smoke survive bench lint lock clean

help: ## Shows this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-17s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment: made once, and again when a pinned version changes.
.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv; this takes some minutes, once."
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed (make PYTHON=...), this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(INSTALL) pip  # the one that Python brings may take minutes to look up so many versions
	$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@

quickstart: .venv/installed ## Installs, runs HeteroFL on handwritten digits through papermill, builds the book.
	$(CORE) notebook --file params/quickstart.yaml
	@$(MAKE) --no-print-directory book

run: .venv/installed ## Runs one experiment through papermill: make run P="-p dataset=mnist -p levels=e -p rounds=20"
	$(CORE) notebook $(P)

course: .venv/installed ## Writes the course's notebooks, and executes each chapter whose code changed since it ran.
	$(CORE) course $(P)

book: .venv/installed ## Builds the book from the records in outputs/; trains nothing.
	$(CORE) book $(P)

study: .venv/installed ## Does a whole study, and the book with it; resumes: make study STUDY=table5 P="--profile slurm"
	$(CORE) pipeline $(STUDY) $(P)

results: .venv/installed ## Fills the study for some hours, the most telling runs first: make results HOURS=2 PLAN=cpu
	$(CORE) results --hours $(HOURS) --plan $(PLAN) $(P)

status: .venv/installed ## Says how far a study is: done, running, failed, missing, time left: make status STUDY=table5
	@$(CORE) status $(STUDY) $(P)

federation: .venv/installed ## Runs a real federation here, over TLS, one client of which dies: make federation P="--levels abcde"
	PYTHONPATH=book/federation $(BIN)/python -m heterofl_flower $(P)

test: .venv/installed ## Tests the code, the notebooks and the book.
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

federation-test: .venv/installed ## Tests the real federation from end to end, in minutes.
	$(BIN)/pytest tests/federation -m federation

smoke: .venv/installed ## Runs every row of the ablation and every baseline from end to end, on digits, in minutes.
	for model in cnn preresnet18; do \
	  HETEROFL_OUTPUTS=outputs/smoke $(CORE) study ablation -p protocol=smoke -p dataset=digits -p num_clients=20 -p arch=$$model || exit 1; \
	done
	HETEROFL_OUTPUTS=outputs/smoke $(CORE) study baselines -p protocol=smoke -p dataset=digits -p num_clients=20

survive: .venv/installed ## Kills a study at random moments, twenty times, and compares its results; half an hour.
	$(BIN)/python tests/survive.py --kills 20 -p workers=2

bench: .venv/installed ## Times rounds beside common practice, and against what the machine could do; an hour.
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.ways
	$(BIN)/python -m benchmarks.roofline

lint: .venv/installed ## Checks style and types, notebooks included.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbqa mypy book/experiments

lock: ## Derives constraints.txt from the versions in pyproject.toml.
	rm -rf .lock
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) --editable '.[$(EXTRAS)]'
	{ echo '# Derived from pyproject.toml by `make lock`; not to be edited.'; \
	  .lock/bin/pip freeze --all --exclude setuptools --exclude wheel --exclude-editable | sed 's/+cpu$$//'; } > constraints.txt
	rm -rf .lock

clean: ## Removes what a build makes anew; records and environment stay.
	rm -rf book/_build book/executed book/course outputs/results.csv
