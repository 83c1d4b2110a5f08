# The daily commands. `make train` and `make test` work on a fresh machine that has Python 3.11, g++,
# cmake and make; both are quick the second time.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES = $(shell git ls-files '*.cpp' '*.h')

.PHONY: help train test test-database test-database-compiled op-coverage distributed-coverage bench build build-tests lint format check-isa asan tsan doctor clean
.DEFAULT_GOAL := help

help:
	@echo 'make train       install everything into .venv and train the example on accel'
	@echo '                 (ARGS="--amp", ARGS="--compare", ... are passed on to it)'
	@echo 'make test        the same set-up, then all tests, C++ and Python'
	@echo 'make test-database  PyTorch'"'"'s whole operator database, every dtype, forward and backward'
	@echo 'make test-database-compiled  the same through torch.compile, every sample in every dtype'
	@echo 'make op-coverage write docs/op_coverage.md: what is native, a host op, a fallback'
	@echo 'make distributed-coverage  PyTorch'"'"'s own distributed tests, into docs/'
	@echo 'make bench       compare accel with CPU eager and inductor (ARGS="--amp", ...)'
	@echo 'make doctor      versions, instruction sets, memory and a self-test'
	@echo 'make build       compile what changed and install it into .venv'
	@echo 'make lint        check formatting and lint;  make format  puts it right'
	@echo 'make check-isa   no AVX code leaks out of its namespace'
	@echo 'make asan        C++ tests under AddressSanitizer and UBSan'
	@echo 'make tsan        C++ tests under ThreadSanitizer'
	@echo 'make clean       remove .venv and build'

train: build $(VENV)/examples
	$(RUN) examples/train_gpt.py $(ARGS)

test: build-tests $(VENV)/test
	tools/test.sh

# One thread a process: the operators are small, and the processes share the cores.
test-database: build $(VENV)/test
	ACCEL_FALLBACK=quiet OMP_NUM_THREADS=1 \
	  $(RUN) -m pytest -q -n auto -m database $(ARGS) tests/python/test_operator_database.py

test-database-compiled: build $(VENV)/test
	ACCEL_TEST_COMPILED=all ACCEL_FALLBACK=quiet OMP_NUM_THREADS=1 \
	  $(RUN) -m pytest -q -n auto -m database -k compiled- $(ARGS) \
	  tests/python/test_operator_database.py

op-coverage: build $(VENV)/test
	$(RUN) tools/op_coverage.py

distributed-coverage: build $(VENV)/test
	$(RUN) tools/distributed_coverage.py

bench: build
	$(RUN) benchmarks/train.py $(ARGS)

doctor: build
	$(RUN) -m torch_accel doctor

# ---- set-up: a virtual environment, one stamp for each list of packages in pyproject.toml ----

$(VENV)/bin/python:
	@command -v cmake >/dev/null || { echo "cmake is missing: apt-get install cmake"; exit 1; }
	@command -v g++ >/dev/null || { echo "g++ is missing: apt-get install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment: apt-get install python3-venv"; exit 1; }

$(VENV)/build $(VENV)/test $(VENV)/examples $(VENV)/lint: $(VENV)/%: pyproject.toml | $(VENV)/bin/python
	$(RUN) tools/requirements.py $* > $@.txt
	$(RUN) -m pip install -q --disable-pip-version-check -r $@.txt
	@touch $@

# The package is installed editable: this folder is the package, and a build updates it in place.
build: $(VENV)/build
	$(RUN) setup.py -q build_ext --inplace
	@test -e $(VENV)/installed || \
	  $(RUN) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $(VENV)/installed

build-tests: $(VENV)/build
	tools/ensure_test_packages.sh
	@ACCEL_BUILD_TESTS=1 $(MAKE) --no-print-directory build

# ---- quality ----

lint: $(VENV)/lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/clang-format --dry-run --Werror $(SOURCES)

format: $(VENV)/lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(SOURCES)

check-isa: build
	$(RUN) tools/check_isa.py build/cmake

asan: $(VENV)/build
	tools/sanitize.sh address,undefined build/asan

tsan: $(VENV)/build
	tools/sanitize.sh thread build/tsan

clean:
	rm -rf $(VENV) build torch_accel.egg-info torch_accel/*.so
