# make demo: a virtual environment, tenshot in it, and robots from faces.  make test, make check: what every change must pass.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check format install develop clean

install: $(VENV)/.installed
develop: $(VENV)/.developed

# torch is installed on its own first, so that a CPU build that pip can find locally is taken as it is.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet torch
	$(BIN)/pip install --quiet --editable ".[bench]"
	touch $@

$(VENV)/.developed: $(VENV)/.installed
	$(BIN)/pip install --quiet --group dev
	touch $@

demo: install
	$(BIN)/tenshot adapt examples/robots --out runs/demo --overwrite
	@echo "so that your shell finds tenshot: . $(BIN)/activate"

test: develop
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: develop
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)
