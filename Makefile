# Two commands: `make demo` and `make test`. Windows without make: see the README.
PYTHON ?= python3
VENV := .venv
FTKIT := $(VENV)/bin/ftkit

.DEFAULT_GOAL := help
.PHONY: help demo test check bench lab doctor lint lock notebooks clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  demo takes FRESH=1 (train anew), MINUTES=15 (for the training), SHARE=1 (public link), PORT=number; all take FTKIT_PROFILE=cpu|ci|t4|big"

# pip runs again only when the dependencies change; the stamp is written after both installs worked
$(VENV)/.ready: pyproject.toml constraints.txt ftkit/models/catalog.toml Makefile
	@test -x $(VENV)/bin/python || { echo "Making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(VENV)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: rm -r $(VENV), then make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing the pinned dependencies into $(VENV) (once; 2 to 10 minutes)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,test]"
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV)/bin/python -m ftkit.models.catalog
	@touch $@

demo: $(VENV)/.ready  ## serve the demo, and fine-tune and evaluate beside it (a second call goes on, or reuses the run)
	$(FTKIT) demo --prepare $(if $(FRESH),--fresh) --minutes $(or $(MINUTES),15) $(if $(SHARE),--share) $(if $(PORT),--port $(PORT))

test: $(VENV)/.ready  ## all tests, the notebooks among them
	$(VENV)/bin/python -m pytest $(ARGS)

check: $(VENV)/.ready  ## what the tests look at first, read-only: lint, format, types, the order of the stages
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy && $(VENV)/bin/lint-imports

bench: $(VENV)/.ready  ## speed and memory side by side, into benchmarks/BENCHMARKS.md (over an hour; needs a finished run; ARGS="--busy 1": beside a busy process)
	$(VENV)/bin/python -m benchmarks $(ARGS)

lab: $(VENV)/.ready  ## JupyterLab, opened at the first lesson
	$(VENV)/bin/python -m ipykernel install --prefix $(VENV) --name ftkit --display-name "ftkit" > /dev/null
	@$(VENV)/bin/jupyter trust notebooks/*.ipynb notebooks/labs/*.ipynb > /dev/null 2>&1 \
		&& echo "The notebooks of this folder are trusted: their formatted outputs show at once." \
		|| echo "The notebooks could not be marked as trusted (jupyter trust): some outputs show after their cell has run."
	$(VENV)/bin/jupyter lab --notebook-dir . notebooks/00_start_here.ipynb

doctor: $(VENV)/.ready  ## one line for each thing the course needs, with its fix
	$(FTKIT) doctor

lint: $(VENV)/.ready  ## put the code into shape
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

lock: $(VENV)/.ready  ## write constraints.txt from the versions in this environment (after make test)
	$(VENV)/bin/python tests/lock.py

notebooks: $(VENV)/.ready  ## badges, first and exercise cells as they should be, then run each with the cpu profile
	$(VENV)/bin/python notebooks/refresh.py --run

clean:  ## remove the environment (runs and the model cache stay)
	rm -rf $(VENV)
