# Needs make and Python 3.11 or later with pip; everything else goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
MODEL ?= tiny
# The ten kinds of photos that the embedded model knows.
TEXTS ?= [a photo of an airplane, a photo of an automobile, a photo of a bird, a photo of a cat, a photo of a deer, \
	a photo of a dog, a photo of a frog, a photo of a horse, a photo of a ship, a photo of a truck]

# Threads that spin while they wait slow each other down where tests or readers share the cores.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format pins

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | awk -F': +' '{printf "make %-8s  %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## make .venv with the pinned versions of requirements.txt

demo: $(VENV)/.installed  ## features of the sample videos, and what is in them (MODEL=path/to/checkpoint.pt for your own)
	@$(BIN)/python main.py feature_type=clip model_name="$(MODEL)" video_paths=sample extraction_fps=1 \
		show_pred=true pred_texts="$(TEXTS)" on_extraction=save_numpy output_path=output/demo
	@$(BIN)/python tools/show_saved.py output/demo

test: lint  ## lint, types and the whole test suite
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed  ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed  ## ruff's formatting and fixes, and the tables of README.md
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format
	$(BIN)/python tools/readme_table.py

pins: $(BIN)/uv  ## requirements.txt anew from the lower bounds of pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --resolution lowest-direct --universal --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make pins" \
		--quiet --output-file requirements.txt

# uv goes into .venv with pip, on PATH or not; --without-pip because Debian packs ensurepip separately.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, $(PYTHON) is " \
		+ sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check uv

$(VENV)/.installed: requirements.txt | $(BIN)/uv
	$(BIN)/uv pip install --python $(BIN)/python --requirement requirements.txt
	@touch $@
