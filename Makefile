# Needs make and Python 3.11 or later with pip; everything else goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv_lowest
PYTHON ?= python3
# Another build of PyTorch than the package registry's: `make install TORCH_BACKEND=cpu`, cu126, ..., or auto, which asks
# the GPU's driver (uv's --torch-backend). It stays chosen until another is; TORCH_BACKEND= goes back.
CHOSEN := $(shell cat $(VENV)/.torch_backend 2>/dev/null)
TORCH_BACKEND ?= $(CHOSEN)
MODEL ?= tiny
# The ten kinds of photos that the embedded model knows.
TEXTS ?= [a photo of an airplane, a photo of an automobile, a photo of a bird, a photo of a cat, a photo of a deer, \
	a photo of a dog, a photo of a frog, a photo of a horse, a photo of a ship, a photo of a truck]

# Threads that spin while they wait slow each other down where tests or readers share the cores.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo test lowest lint format pins

help:  ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/:/' | awk -F': +' '{printf "make %-8s  %s\n", $$1, $$2}'

install: $(VENV)/.installed  ## make .venv with the pinned versions of requirements.txt

demo: $(VENV)/.installed  ## features of the sample videos, and what is in them (MODEL=path/to/checkpoint.pt for your own)
	@$(BIN)/python main.py feature_type=clip model_name="$(MODEL)" video_paths=sample extraction_fps=1 \
		show_pred=true pred_texts="$(TEXTS)" on_extraction=save_numpy output_path=output/demo
	@$(BIN)/python tools/show_saved.py output/demo

test: lint  ## lint, types and the whole test suite
	$(BIN)/python -m pytest -n auto --dist worksteal

lowest: $(BIN)/uv  ## the whole test suite with the lowest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip compile pyproject.toml --extra dev --resolution lowest-direct --python $(LOWEST)/bin/python --upgrade \
		--only-binary :all: --no-binary antlr4-python3-runtime --quiet --output-file $(LOWEST)/requirements.txt
	$(BIN)/uv pip install --python $(LOWEST)/bin/python --requirement $(LOWEST)/requirements.txt
	$(LOWEST)/bin/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.installed  ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed  ## ruff's formatting and fixes, and the tables of README.md
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format
	$(BIN)/python tools/readme_table.py

pins: $(BIN)/uv  ## requirements.txt anew; what is pinned stays if it can, the rest is the newest
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
		--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make pins" \
		--quiet --output-file requirements.txt

# uv goes into .venv with pip, on PATH or not; --without-pip because Debian packs ensurepip separately.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, $(PYTHON) is " \
		+ sys.version.split()[0] + ": make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check uv

ifneq ($(strip $(TORCH_BACKEND)),$(strip $(CHOSEN)))
.PHONY: $(VENV)/.installed
endif

$(VENV)/.installed: requirements.txt | $(BIN)/uv
ifeq ($(strip $(TORCH_BACKEND)),)
	$(BIN)/uv pip install --python $(BIN)/python --requirement requirements.txt
else  # as pinned, but for PyTorch and what belongs to its build
	cp requirements.txt $(VENV)/requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --python $(BIN)/python --torch-backend $(TORCH_BACKEND) \
		--quiet --output-file $(VENV)/requirements.txt
	$(BIN)/uv pip install --python $(BIN)/python --torch-backend $(TORCH_BACKEND) --requirement $(VENV)/requirements.txt
endif
	@echo $(TORCH_BACKEND) > $(VENV)/.torch_backend
	@touch $@
