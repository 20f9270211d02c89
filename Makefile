# make demo · make test · make check · make docs · make bench · make package — each makes and fills .venv itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test test-slow check docs bench package clean
.DELETE_ON_ERROR:

$(STAMP): setup.py setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/digits.py --quick

# the same rounding on every machine; benchmarks run with the frameworks' own settings
test test-slow: export OMP_NUM_THREADS ?= 1
test test-slow: export TF_ENABLE_ONEDNN_OPTS ?= 0
# processes that share the test files
WORKERS ?= 2

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# the documentation, in docs/_build/html; warnings are errors
docs: $(STAMP)
	$(BIN)/sphinx-build -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html

bench: $(STAMP)
	mkdir -p out
	$(BIN)/python -m benchmarks.run --json out/bench.json

# the source distribution, the wheel made from it, and their page for an index, in dist; nothing is uploaded
package: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist out docs/_build *.egg-info
