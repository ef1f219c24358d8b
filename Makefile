# Everything runs in a virtual environment that these targets make; `make clean` removes it, but not out/: it holds the work done in `make studio`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Label Studio's packages conflict with the backend's newer ones, so it has an environment of its own.
STUDIO_VENV ?= .venv-studio
LOWEST_VENV ?= .venv-lowest
# Ray has pins of its own too, and one machine does not need it.
CLUSTER_VENV ?= .venv-cluster
LABEL_STUDIO := $(STUDIO_VENV)/bin/label-studio
# Python compiles a module when it is first used. Compiling all of them beforehand tripled the installation's processor time (86 s, not 28).
INSTALL := pip install --quiet --no-compile
# Packages of Debian that `make compose-test` needs.
PODMAN_PACKAGES := podman runc netavark aardvark-dns iptables catatonit debootstrap jq openssl python3-venv
# At most four processes with one thread each; one that is done takes over tests of another.
IN_PARALLEL := -n logical --maxprocesses 4 --dist worksteal
# Options for `make studio`, such as STUDIO="--port 8081 --images ~/photographs"
STUDIO ?=
# Options for `make demo`, such as DEMO="--backbone vit --model DIR"
DEMO ?=

.PHONY: demo test check test-gpu test-lowest e2e chromium pictures latency compose-test cluster-test podman studio serve bench install clean

demo: $(VENV)/installed  ## a server on the embedded default, clicks on three photographs, out/demo.png
	$(BIN)/python -m m2n2_backend.commands.demo out $(DEMO)

test: $(VENV)/installed  ## style, types, all tests; Label Studio and Chromium are installed meanwhile
	$(MAKE) --jobs 2 check $(STUDIO_VENV)/installed chromium
	$(MAKE) e2e

check: $(VENV)/installed  ## style, types, all tests but those in a browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) --ignore tests/e2e

test-gpu: $(VENV)/installed  ## the tests that need a CUDA device and are skipped without one
	$(BIN)/python -m pytest -m gpu

# Warnings are not errors here: old releases warn about each other's later versions.
test-lowest: $(LOWEST_VENV)/installed  ## backbones and method with the lowest versions that pyproject.toml allows
	$(LOWEST_VENV)/bin/python -m pytest -W default tests/m2n2 tests/backbones tests/test_prompts.py tests/test_python_api.py

e2e: $(VENV)/installed $(STUDIO_VENV)/installed chromium  ## real Label Studio (one in each of two processes), backend and browser; out/e2e/*.png
	E2E_LABEL_STUDIO=$(LABEL_STUDIO) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/e2e

pictures: $(VENV)/installed $(STUDIO_VENV)/installed chromium  ## label_config/pictures, with real clicks; PICTURES="--backbone vit --model DIR"
	E2E_LABEL_STUDIO=$(LABEL_STUDIO) $(BIN)/python tests/e2e/make_pictures.py $(PICTURES)

latency: $(VENV)/installed $(STUDIO_VENV)/installed chromium  ## from click to painted mask, beside a backend that answers at once
	E2E_LABEL_STUDIO=$(LABEL_STUDIO) $(BIN)/python tests/e2e/latency.py

compose-test: podman  ## images and compose.yaml with podman, as root on Debian; about ten minutes
	docker/compose_test.sh

cluster-test: $(CLUSTER_VENV)/installed  ## replicas on Ray, killed and scaled, a bucket, a load; about ten minutes, out/cluster.json
	$(CLUSTER_VENV)/bin/python -m pytest tests/worker/store/test_store.py tests/worker/cluster/test_cluster.py tests/cluster
	$(CLUSTER_VENV)/bin/python tests/cluster/load.py out/cluster.json

podman:
	@if ! dpkg -s $(PODMAN_PACKAGES) > /dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			apt-get update -qq && apt-get install -qq --no-install-recommends $(PODMAN_PACKAGES); \
		else \
			echo "only root on Debian can install what is needed: $(PODMAN_PACKAGES)"; \
		fi; \
	fi

chromium:
	@if [ ! -x /usr/bin/chromium ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
			apt-get update -qq && apt-get install -qq --no-install-recommends chromium fonts-liberation; \
		else \
			echo "/usr/bin/chromium is missing, and only root can install it: the tests in a browser will be skipped"; \
		fi; \
	fi

studio: $(VENV)/installed $(STUDIO_VENV)/installed  ## Label Studio and the backend side by side, a project to click in
	exec $(BIN)/python -m m2n2_backend.commands.studio --label-studio $(LABEL_STUDIO) $(STUDIO)

serve: $(VENV)/installed  ## http://127.0.0.1:9090 for Label Studio
	$(BIN)/m2n2-backend serve

bench: $(VENV)/installed
	$(BIN)/m2n2-backend bench

install: $(VENV)/installed

# torch comes first and by itself: as its version is pinned, a CPU build is used if there is one, and no later step replaces it.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m $(INSTALL) --upgrade pip
	$(BIN)/python -m $(INSTALL) $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m $(INSTALL) --constraint constraints.txt --editable '.[test,e2e]'
	touch $@

$(LOWEST_VENV)/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m $(INSTALL) $$(grep '^torch==' constraints-lowest.txt)
	$(LOWEST_VENV)/bin/python -m $(INSTALL) --constraint constraints-lowest.txt --editable '.[test]'
	touch $@

$(STUDIO_VENV)/installed: constraints-studio.txt
	$(PYTHON) -m venv $(STUDIO_VENV)
	$(STUDIO_VENV)/bin/python -m $(INSTALL) --upgrade pip
	$(STUDIO_VENV)/bin/python -m $(INSTALL) --constraint $< label-studio
	touch $@

$(CLUSTER_VENV)/installed: pyproject.toml constraints-cluster.txt
	$(PYTHON) -m venv $(CLUSTER_VENV)
	$(CLUSTER_VENV)/bin/python -m $(INSTALL) --upgrade pip
	$(CLUSTER_VENV)/bin/python -m $(INSTALL) $$(grep '^torch==' constraints-cluster.txt)
	$(CLUSTER_VENV)/bin/python -m $(INSTALL) --constraint constraints-cluster.txt --editable '.[cluster-test]'
	touch $@

clean:
	rm -rf $(VENV) $(STUDIO_VENV) $(LOWEST_VENV) $(CLUSTER_VENV) build dist .mypy_cache .pytest_cache .ruff_cache
