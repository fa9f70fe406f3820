# Everything runs in .venv; a stamp there says what it holds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo

.PHONY: demo test test-all lint bazel-test clean

$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.installed-all: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,tensorflow,witness,dask]'
	touch $@

# The main job on the bundled model: re-express it, then validate it on the bundled images.
demo: $(VENV)/.installed
	mkdir -p $(DEMO)
	$(BIN)/tf_requant requantize --model=tf_requant/sample/mnv2_cifar_qat_uint8.tflite --target=nna_sym8_pow2 \
		--calibration=tf_requant/sample/cifar10_calibration.npz \
		--output=$(DEMO)/mnv2_cifar_nna_sym8_pow2.tflite --overwrite
	$(BIN)/tf_requant validate --model=$(DEMO)/mnv2_cifar_nna_sym8_pow2.tflite \
		--reference=tf_requant/sample/mnv2_cifar_qat_uint8.tflite \
		--data=tf_requant/sample/cifar10_evaluation.npz --target=nna_sym8_pow2

# Two processes: most of the time goes into interpreters that start and end in processes of their own.
test: $(VENV)/.installed-dev
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: $(VENV)/.installed-all
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m ""

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check tf_requant tests benchmarks notebooks examples
	$(BIN)/mypy tf_requant/numerics tf_requant/model tf_requant/targets

# Debian's bazel-bootstrap; third-party packages come from the venv.
bazel-test: $(VENV)/.installed-dev
	tools/bazel/run test //...

clean:
	rm -rf build $(VENV) *.egg-info
