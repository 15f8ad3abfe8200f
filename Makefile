# Each target makes the environment first where it is missing. PYTHON names the
# interpreter it is made with (3.11 or newer), VENV the folder it lies in.
PYTHON ?= python3
VENV ?= .venv
bin := $(VENV)/bin
options :=
# A terminal shows pip's progress.
quiet := $(shell test -t 2 || echo --quiet)
# Compiled Python is kept, so that pytest and the processes it starts begin sooner.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: mnist test check times lint docs package clean

mnist: $(VENV)/ready  ## a teacher of all digits, students with 20 of each
	$(bin)/python -m experiments.run mnist_few_labels --resume $(options)

test: $(VENV)/ready  ## the whole suite
	$(bin)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder $(options)

check: $(VENV)/ready  ## the tests of the files that differ from the last commit
	$(bin)/python -m tests.room $(options)

times: $(VENV)/ready  ## the whole suite, and how long each test and file takes
	$(bin)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -p tests.times $(options)

lint: $(VENV)/ready  ## style and types, as CI checks them
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/python -m mypy --cache-dir .cache/mypy

$(VENV)/ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rdljax needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing the packages of requirements.txt into $(VENV): one to two minutes."
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install $(quiet) --disable-pip-version-check -r requirements.txt
	@touch $@

docs: $(VENV)/docs  ## the documentation's site, in docs/_build/html
	$(bin)/python -m sphinx -W --keep-going -q docs docs/_build/html

$(VENV)/docs: $(VENV)/ready pyproject.toml
	$(bin)/python -m pip install $(quiet) --disable-pip-version-check "sphinx>=8.1" "furo>=2024.8" "myst-nb>=1.2" "equinox>=0.13" "rsatoolbox>=0.3.2"
	@touch $@

package:  ## the package, as it is installed by pip, in an empty environment
	.ci/package $(PYTHON)

clean:
	rm -rf $(VENV) .cache docs/_build
	find . -name __pycache__ -prune -exec rm -rf {} +
