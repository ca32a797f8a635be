# make help lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help book test lint study gpu notebooks notebook address clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -r requirements.txt
	$(BIN)/pip install --no-deps -e .
	@touch $@

book: $(READY) ## execute what changed and build the site
	$(BIN)/python tools/build_book.py

lint: $(READY) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Three stages of pytest: the code, the committed notebooks, the built site.
test: lint ## everything that must hold before a commit
	$(BIN)/pytest -n 2 --dist=worksteal --ignore=tests/test_site.py
	$(BIN)/pytest --nbval --nbval-sanitize-with=tests/nbval.cfg \
		-n 2 --dist=loadfile notebooks
	$(BIN)/python tools/build_book.py
	$(BIN)/pytest -n 2 --dist=worksteal tests/test_site.py

study: $(READY) ## measure the rows of chapters 5 to 11 again; stop and go on at will
	$(BIN)/python -m dllm_tutorial.bench_study --out runs/bench --workers 2
	$(BIN)/python -m dllm_tutorial.reversal --out runs/reversal
	$(BIN)/python -m dllm_tutorial.neighborhood
	$(BIN)/python -m dllm_tutorial.order_search
	$(BIN)/python -m dllm_tutorial.order_study --out runs/orders --workers 2
	$(BIN)/python -m dllm_tutorial.log_sum_study --out runs/log_sum --workers 2

gpu: $(READY) ## everything that needs a GPU, in ten minutes: rows in runs/gpu
	$(BIN)/python tests/benchmarks/bench_gpu.py --out runs/gpu

notebooks: $(READY) ## sync, execute and strip all notebooks in place
	$(BIN)/python tools/make_notebooks.py

notebook: $(READY) ## the same for one: make notebook NB=03_parallel_decoding
	$(BIN)/python tools/make_notebooks.py $(NB)
	$(BIN)/pytest tests/test_structure.py -k $(NB)

address: $(READY) ## rewrite what follows from the address: make address [URL=...]
	$(BIN)/python tools/derive.py $(if $(URL),--url $(URL))

clean: ## remove what was built, keep the environment
	rm -rf _build .mypy_cache .pytest_cache .ruff_cache .hypothesis
