# Commands on a machine that has Python and make: `make demo`, `make test`, `make docs` and, while one works,
# `make test-fast`; `make gpu` on one that has a GPU, too.
# The others make .venv and install what they need the first time (about three minutes and 7 GB, nearly all of it torch).

PYTHON ?= python3
TASKS ?= classification detection segmentation
BIN := .venv/bin

.PHONY: demo test test-fast style docs gpu clean
.DELETE_ON_ERROR:

# `make demo TASKS=classification` does one alone. What is finished is not done again, what was interrupted goes on.
demo: .venv/.mm
	@echo "== Training small SpectFormers on handwritten digits, $(TASKS): about eight minutes on two cores for all three"
	OMP_WAIT_POLICY=passive $(BIN)/spectral demo --only $(TASKS)

style: .venv/.test
	@echo "== Style"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: style
	@echo "== Tests, one process for each core"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-fast: style
	@echo "== Tests of what the last commit does not have yet, of a name of each family, of a run of each task"
	OMP_NUM_THREADS=1 $(BIN)/python tools/fast_tests.py

docs: .venv/.docs
	@echo "== The documentation as a site, every link and name checked"
	$(BIN)/python tools/docs.py

# With the Python that has torch for this GPU: `make gpu PYTHON=...`. It installs nothing.
gpu:
	$(PYTHON) tools/check_gpu.py --out check_gpu

clean:
	rm -rf .venv build site *.egg-info

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and f"Python 3.10 or later is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11")'
	@echo "== Making .venv with $$($(PYTHON) --version)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# One stamp for each set of requirements: made anew when setup.cfg asks for something else.
.venv/.%: setup.cfg pyproject.toml | .venv/.python
	@echo "== Installing the package and what '$*' needs, only this once"
	$(BIN)/python -m pip install --editable '.[$*]'
	@touch $@
