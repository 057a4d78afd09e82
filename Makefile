# make demo   virtual environment, installation, the solar-absorber design, report in runs/demo
# make test   virtual environment, installation, all tests
# make lint   ruff format, ruff check, mypy
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "MatSmith needs Python >= 3.11; try: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing MatSmith and its dependencies into $(VENV) (a few minutes the first time)"
	@$(PIP) -e .
	@touch $@

$(VENV)/installed-developer: $(VENV)/installed
	@$(PIP) -e '.[test,lint]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/matsmith design --config experiments/configs/solar_absorber.yaml --output runs/demo --overwrite true

test: $(VENV)/installed-developer
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/installed-developer
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info
