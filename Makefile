# make demo: the whole way on generated scenes.  make test: all checks.  Both set up what they need in .venv.
# make test-device: the tests that need no torch, as on a device, in .venv-device.
PYTHON ?= python3
PY := .venv/bin/python
DEMO := models/demo

.PHONY: setup demo test test-device check clean

setup: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "make needs Python 3.10 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[train,export,cpu,dev]'
	@mkdir -p .typing && ln -sfn .. .typing/retinanet_edge
	@touch $@

# A small network that learns the scenes from nothing in a few minutes on two cores.
DEMO_NETWORK := --backbone test_resnet --weights none --input 256 --fpn-channels 64 --head-channels 64 --head-depth 2 \
	--anchor-size 3 --anchor-scales 1,1.41 --anchor-ratios 1
DEMO_TRAINING := --epochs 9 --batch 16 --lr 3e-3 --augment 0.5 --eval-every 3

demo: setup
	$(PY) runtime/scenes.py --output data/scenes --train 1000 --val 400
	$(PY) training/train.py --data data/scenes --model $(DEMO) --replace $(DEMO_NETWORK) $(DEMO_TRAINING)
	$(PY) export/export_onnx.py --model $(DEMO)
	$(PY) export/build_engine.py --model $(DEMO) --int8
	$(PY) runtime/stream.py --model $(DEMO) --camera demo --no-window --video $(DEMO)/report/demo.mp4 --jsonl $(DEMO)/report/demo.jsonl
	$(PY) runtime/evaluate.py --model $(DEMO) --report
	$(PY) runtime/benchmark.py --model $(DEMO) --csv $(DEMO)/report/benchmark.csv
	$(PY) runtime/report.py --model $(DEMO)

test: check
	$(PY) -m pytest

# What JetPack 6 has: CPython 3.10, the oldest packages that pyproject.toml allows, the CPU backend in place of TensorRT. TENSORRT=1 adds
# TensorRT 8.5.3.1 (0.9 GB), whose bindings load without a GPU. Where there is a .venv, it trains the model that some tests need.
DEVICE_PY := .venv-device/bin/python
DEVICE_PYTHON ?= $(firstword $(foreach found,python3.10 $(wildcard $(HOME)/.pyenv/versions/3.10.*/bin/python) $(PYTHON),$(shell \
	$(found) -c 'import sys; print(sys.executable)' 2>/dev/null)))

test-device: .venv-device/$(if $(TENSORRT),tensorrt,installed)
	TORCH_PYTHON=$(CURDIR)/$(PY) $(DEVICE_PY) -m pytest tests/runtime tests/export

.venv-device/installed: pyproject.toml
	$(DEVICE_PYTHON) -m venv .venv-device
	@if $(DEVICE_PY) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))'; \
	then grep -oE '[a-z-]+>=[0-9.]+' pyproject.toml | sed -E 's/>=(.*)/==\1.*/' >.venv-device/versions; \
	else echo "no CPython 3.10 here (make DEVICE_PYTHON=PATH names one): $$($(DEVICE_PY) -V) with the newest packages"; : >.venv-device/versions; fi
	$(DEVICE_PY) -m pip install --quiet --disable-pip-version-check -c .venv-device/versions -e '.[export,cpu]' cuda-bindings polygraphy pytest hypothesis
	@touch $@

.venv-device/tensorrt: .venv-device/installed
	$(DEVICE_PY) -m pip install --quiet --disable-pip-version-check tensorrt==8.5.3.1 'nvidia-cudnn-cu11<9'
	@touch $@

check: setup
	.venv/bin/ruff check .
	.venv/bin/mypy -p retinanet_edge.runtime -p retinanet_edge.training -p retinanet_edge.export

clean:
	rm -rf .venv .venv-device .typing $(DEMO) data/scenes build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
