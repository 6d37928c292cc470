# `make run` and `make test` are all a fresh machine with Python 3.10 or newer needs: every target first makes the
# virtual environment when it is missing or older than pyproject.toml or constraints.txt: for `make run` qbench with
# both engines, for everything else also what its tests, checks and peers need, which takes twice as long to install.
#   make PYTHON=python3.12 test      another interpreter (after `make clean`, or with another VENV)
#   make VENV=../env test            another place for the virtual environment

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
READY_BENCH := $(VENV)/.ready-bench
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# what `make run` runs; any other sweep: make run RUN="-m dataset=synthetic bits=4,2"
RUN ?= -m method=fp32,linear,kmeans bits=8,4,2 measure=quick train.epochs=12
# what `make results-studies` runs
STUDIES ?= e b a d c
RESULTS := docs/results
# run_sweeps,FOLDER,WORDS: the sweeps in FOLDER/runs.txt with some words more; their records beside it
define run_sweeps
set -e; grep -v '^#' $(1)/runs.txt | while read -r sweep; do $(BIN)/qbench run -m $$sweep $(2); done
rm -rf $(1)/records
mkdir -p $(1)/records
cp $(QBENCH_OUTPUTS)/records/*.json $(1)/records/
endef

# study_tables: the tables of all studies, from the records that are there
define study_tables
for name in a b c d e; do \
  QBENCH_OUTPUTS=$(RESULTS)/studies $(BIN)/qbench study $$name --records $(RESULTS)/studies/records || exit 1; done
endef

COMMA := ,

.DEFAULT_GOAL := help
.NOTPARALLEL: # what measures wants the machine for itself
.DELETE_ON_ERROR:
.PHONY: help ready run test test-all faults lint type fmt bench results results-accuracy results-agreement results-exports
.PHONY: results-main results-studies results-without-vnni docs readme-table clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' Makefile

# make_venv,EXTRAS: a virtual environment with qbench and some of its extras
define make_venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "qbench needs Python 3.10 or newer as $(PYTHON); name another: make PYTHON=python3.12 ..." >&2; exit 1; }
$(PYTHON) -m venv $(VENV)
$(INSTALL) -e ".[$(1)]"
endef

$(READY): pyproject.toml constraints.txt
	$(call make_venv,onnxruntime$(COMMA)openvino$(COMMA)figures)
	@touch $@

$(READY_DEV): pyproject.toml constraints.txt
	$(call make_venv,dev)
	@touch $(READY) $@

$(READY_BENCH): $(READY_DEV)
	$(INSTALL) -e ".[dev,bench]"
	@touch $@

ready: $(READY_DEV) ## only the virtual environment, with qbench and all it is developed with in it

run: $(READY) ## a first sweep on embedded images; table here, files in outputs/
	$(BIN)/qbench run $(RUN)

# Files of tests go to one process a core, each of which computes on one thread; TESTERS=0 runs them in one process.
TESTERS ?= auto
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TESTERS) --dist loadfile

test: $(READY_DEV) ## the fast tests
	$(PYTEST) -m "not slow"

test-all: $(READY_DEV) ## every test, minutes
	$(PYTEST)

faults: $(READY_DEV) ## a hundred kills, then every other fault three times over; minutes
	QBENCH_KILLS=100 $(BIN)/python -m pytest -q tests/faults/test_kills.py
	set -e; for round in 1 2 3; do \
	  $(BIN)/python -m pytest -q tests/faults --ignore=tests/faults/test_kills.py; done

lint: $(READY_DEV) ## rules and formatting, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY_DEV) ## mypy, strict
	$(BIN)/mypy

fmt: $(READY_DEV) ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY_BENCH) ## qbench beside other libraries; JSON in docs/results/benchmarks/ (CIFAR-10 from QBENCH_DATA)
	mkdir -p $(RESULTS)/benchmarks
	$(BIN)/python benchmarks/kmeans.py --json $(RESULTS)/benchmarks/kmeans.json
	$(BIN)/python benchmarks/data_pipeline.py $(if $(QBENCH_DATA),--data-dir "$(QBENCH_DATA)") --json $(RESULTS)/benchmarks/data_pipeline.json
	$(BIN)/python benchmarks/latency.py --json $(RESULTS)/benchmarks/latency.json
	$(BIN)/python benchmarks/ptq.py --adaround --json $(RESULTS)/benchmarks/ptq.json
	$(BIN)/python benchmarks/fine_tuning.py --json $(RESULTS)/benchmarks/fine_tuning.json
	$(BIN)/python benchmarks/report.py --json $(RESULTS)/benchmarks/report.json
	$(BIN)/python benchmarks/sweep.py --json $(RESULTS)/benchmarks/sweep.json
	$(BIN)/python benchmarks/contention.py --json $(RESULTS)/benchmarks/contention.json

results: results-main results-accuracy results-agreement results-exports results-studies docs ## all of docs/results

results-main: export QBENCH_OUTPUTS = outputs/results
results-main: export QBENCH_STORE := $(or $(QBENCH_STORE),outputs/store)
results-main: $(READY_DEV) ## the part of results that the README shows (an hour and trainings; a quiet machine; resumable)
	$(call run_sweeps,$(RESULTS),measure.max_seconds=8)
	rm -rf $(RESULTS)/details
	cp -r outputs/results/details $(RESULTS)/details
	$(BIN)/qbench report $(RESULTS)/records

results-accuracy: export QBENCH_OUTPUTS = outputs/accuracy
results-accuracy: export QBENCH_STORE := $(or $(QBENCH_STORE),outputs/store)
results-accuracy: $(READY_DEV) ## the part of results that is in docs/results/accuracy (hours; resumable)
	$(call run_sweeps,$(RESULTS)/accuracy,measure=none)
	$(BIN)/python -m qbench.report.goals $(RESULTS)/accuracy --details outputs/accuracy/details
	$(BIN)/qbench report $(RESULTS)/accuracy/records

results-studies: export QBENCH_OUTPUTS = outputs/studies
results-studies: export QBENCH_STORE := $(or $(QBENCH_STORE),outputs/store)
results-studies: $(READY_DEV) ## the part of results that is in docs/results/studies (hours; resumable; STUDIES="b e" for some)
	set -e; for name in $(STUDIES); do $(BIN)/qbench study $$name; done
	mkdir -p $(RESULTS)/studies/records $(RESULTS)/studies/details
	cp outputs/studies/records/*.json $(RESULTS)/studies/records/
	for run in $$(grep -ohE '\b[0-9a-f]{12}\b' outputs/studies/tables/study_[ab].csv | sort -u); do \
	  cp outputs/studies/details/$$run.json $(RESULTS)/studies/details/; done  # one seed: paired over images
	$(call study_tables)

results-agreement: export QBENCH_OUTPUTS = outputs/agreement
results-agreement: export QBENCH_STORE := $(or $(QBENCH_STORE),outputs/store)
results-agreement: $(READY_DEV) ## the part of results that is in docs/results/agreement (hours, a quiet machine; resumable)
	$(call run_sweeps,$(RESULTS)/agreement,measure.agreement=always)
	$(BIN)/python -m qbench.report.goals $(RESULTS)/agreement

results-without-vnni: export QBENCH_OUTPUTS = outputs/without_vnni
results-without-vnni: export QBENCH_STORE := $(or $(QBENCH_STORE),outputs/store)
results-without-vnni: $(READY_DEV) ## docs/results/without_vnni, on a processor without VNNI alone (half an hour; no part of results)
	$(call run_sweeps,$(RESULTS)/without_vnni,measure=none measure.agreement=always)
	$(BIN)/python -m qbench.report.goals $(RESULTS)/without_vnni

results-exports: $(READY_DEV) ## C of what results-agreement has made, compiled and compared; docs/results/exports
	$(BIN)/python -m qbench.export.survey $(RESULTS)/agreement/records $(RESULTS)/exports

docs: readme-table ## rebuild the methods page from the methods, and the tables of README and docs from the records
	$(BIN)/python -m qbench.methods_page docs/methods.md
	$(BIN)/python -m qbench.report.goals $(RESULTS)/accuracy
	$(BIN)/python -m qbench.report.goals $(RESULTS)/agreement
	$(BIN)/python -m qbench.report.goals $(RESULTS)/without_vnni
	$(BIN)/python -m qbench.report.choosing docs/choosing.md
	$(call study_tables)

readme-table: $(READY_DEV) ## only the README's table, from docs/results/records
	$(BIN)/python -m qbench.report.readme README.md $(RESULTS)/records

clean: ## remove .venv, caches and builds; outputs/ stays
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
