# make help lists the targets.
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2# processes of a stage of tests
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONUTF8 := 1# so that other people's tools read UTF-8 in every locale

.PHONY: help venv book lint test colab lowest portable gpu study notebooks notebook \
	address clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

# Asked before anything is made, of a Python as old as they come.
VERSION = $(shell "$(PYTHON)" -c \
	"import sys; print('%d.%d' % sys.version_info[:2])" 2>/dev/null)
WANTED = The book needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is \
	$(or $(VERSION),not to be run): say which, as in make book PYTHON=python3.12

venv: ## make the environment .venv, or finish it, or see that it is there
	$(if $(filter 3.11 3.12 3.13,$(VERSION)),,$(error $(WANTED)))
	@"$(PYTHON)" tools/environment.py

book: venv ## execute what changed and build the site
	$(BIN)/python tools/build_book.py

lint: venv ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

PYTEST := pytest -n $(JOBS) --dist=worksteal
NBVAL := pytest --nbval --nbval-sanitize-with=tests/nbval.cfg -n $(JOBS) --dist=loadfile
# Tests of the package: all but those of the book's tools and pages.
OTHERS := build chapter_numbers drawings environment site structure
UNITS := tests $(OTHERS:%=--ignore=tests/test_%.py)
# Those of them that compare numbers.
NUMBERS := ancestral batches certificates counter_rng decoding exact joints laws ledger \
	lora losses masking measure mixtures muon neighborhood networks order_search \
	orders packing rows schedules strategies_exact strategies_study study ties \
	training upper_bound

# Three stages of pytest: the code, the committed notebooks, the built site.
test: lint ## everything that must hold before a commit
	$(BIN)/$(PYTEST) --ignore=tests/test_site.py
	$(BIN)/$(NBVAL) notebooks
	$(BIN)/python tools/build_book.py
	$(BIN)/$(PYTEST) tests/test_site.py

colab: venv ## run all notebooks with Colab's versions, from a wheel, in .venv-colab
	$(BIN)/python tools/environment.py colab
	$(BIN)/python tools/run_chapters.py colab $(NB)

lowest: venv ## chapters and unit tests at the lower bounds, in .venv-lowest
	$(BIN)/python tools/environment.py lowest
	$(BIN)/python tools/run_chapters.py lowest $(NB)
	.venv-lowest/bin/$(PYTEST) -m "not slow" $(UNITS)

# What torch, oneDNN and OpenBLAS would take on a processor without AVX (default, sse41,
# openblas) or without AVX-512, such as AMD's before Zen 4 (avx2); threads.
default := ATEN_CPU_CAPABILITY=default
sse41 := ATEN_CPU_CAPABILITY=default DNNL_MAX_CPU_ISA=SSE41
avx2 := ATEN_CPU_CAPABILITY=avx2 DNNL_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell
openblas := OPENBLAS_CORETYPE=Nehalem
one := OMP_NUM_THREADS=1
two := OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
VARIANTS := default sse41 avx2 openblas one two
AS := $(addprefix as-,$(VARIANTS))

portable: venv ## test as other processors compute; one of them: VARIANT=sse41
	$(if $(filter-out $(VARIANTS),$(VARIANT)),$(error VARIANT is one of: $(VARIANTS)))
	@$(MAKE) -k --no-print-directory $(addprefix as-,$(or $(VARIANT),$(VARIANTS)))

.PHONY: $(AS)
$(AS): as-%: venv
	env $($*) $(BIN)/$(PYTEST) -m "not slow" $(NUMBERS:%=tests/test_%.py)
	env $($*) $(BIN)/$(NBVAL) notebooks

STUDIES := strategies_study gumbel neighborhood order_search reversal bench_study \
	order_study log_sum_study

study: venv ## measure the shipped rows again, at a commit; stop and go on at will
	set -e; for name in $(STUDIES); do \
		$(BIN)/python -m dllm_tutorial.$$name --out runs --ship; done

gpu: venv ## everything that needs a GPU, in ten minutes: rows in runs/gpu
	$(BIN)/python tests/benchmarks/bench_gpu.py --out runs/gpu

notebooks: venv ## sync, execute and strip all notebooks in place
	$(BIN)/python tools/make_notebooks.py

notebook: venv ## the same for one: make notebook NB=03_parallel_decoding
	$(BIN)/python tools/make_notebooks.py $(NB)
	$(BIN)/pytest tests/test_structure.py -k $(NB)

address: venv ## rewrite what follows from the address: make address [URL=...]
	$(BIN)/python tools/derive.py $(if $(URL),--url $(URL))

clean: ## remove what was built, keep the environments
	rm -rf _build .mypy_cache .pytest_cache .ruff_cache .hypothesis
