# Everything runs in a virtual environment that these targets make; `make clean` removes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test serve bench install clean

demo: $(VENV)/installed  ## a server on the embedded default, three clicks, out/demo.png
	$(BIN)/python -m m2n2_backend.demo out

test: $(VENV)/installed  ## style, types, all tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

serve: $(VENV)/installed  ## http://127.0.0.1:9090 for Label Studio
	$(BIN)/m2n2-backend serve

bench: $(VENV)/installed
	$(BIN)/m2n2-backend bench

install: $(VENV)/installed

# torch first and by itself: pinned, it is found as a CPU build where one is at hand, and never replaced by a later one.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) out build dist .mypy_cache .pytest_cache .ruff_cache
