# Two commands: `make demo` shows the whole system, `make test` checks it. Both make the virtual environment first.
#
#   make demo INPUT=my_videos/ OUTPUT=out/    your own videos and images; a file or a directory
#   make demo PRESET=sd15 INPUT=my_videos/    the same with the paper's models: a GPU, and 9 GB of weights from the hub
#   make test-faults                          long tests: killed processes, real servers (up to 40 minutes)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT ?= demo_output
INPUT ?=
PRESET ?=
PROCESSES ?= 2

.PHONY: demo test test-faults lint format clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,5p' Makefile | sed 's/^# \{0,1\}//'

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"error: Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}")'
	@echo "install   virtual environment in $(VENV), about 3 minutes and 7 GB"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python -m jobs.demo $(if $(PRESET),--config "configs/$(PRESET)/demo.yaml") --output "$(OUTPUT)" $(if $(INPUT),--input "$(INPUT)")

test: lint
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadfile

test-faults: $(VENV)/.installed
	$(BIN)/pytest tests/faults

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
