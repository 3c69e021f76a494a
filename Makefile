# Two commands: `make demo` and `make test`. Both set everything up in .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
DOCS_READY := $(VENV)/.ready-docs
BROWSER_READY := $(VENV)/.ready-browser

.PHONY: demo test test-app lint bench docs clean clean-demo help

help:
	@echo "make demo        pre-train, fine-tune and evaluate on the embedded world; writes runs/demo/report.html"
	@echo "make test        lint, type-check and run all tests"
	@echo "make test-app    test the page of soho serve in a headless Chromium, which has to be installed"
	@echo "make bench       time this project and its rivals side by side; writes runs/bench/ (BENCH=\"--help\" for options)"
	@echo "make docs        build the documentation site in build/site, any warning is an error"
	@echo "make clean       remove .venv, build output and caches; runs/ stays"
	@echo "make clean-demo  remove runs/demo"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/soho demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: $(READY) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

$(BROWSER_READY): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,browser]"
	touch $(BROWSER_READY)

test-app: $(BROWSER_READY)
	@$(BIN)/python -m tests.app.browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/app

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,bench]"
	touch $(BENCH_READY)

# For instance: make bench BENCH="inference --cases R101"
bench: $(BENCH_READY)
	$(BIN)/python -m benchmarks $(BENCH)

$(DOCS_READY): $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,docs]"
	touch $(DOCS_READY)

docs: $(DOCS_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html (the search box needs a server: python -m http.server --directory build/site)"

# What training took hours to make (runs/) stays.
clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests recipes benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-demo:
	rm -rf runs/demo
