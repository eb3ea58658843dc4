# make demo: the whole way on generated scenes.  make test: all checks.  Both set up what they need in .venv.
PYTHON ?= python3
PY := .venv/bin/python
DEMO := models/demo

.PHONY: setup demo test check clean

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

check: setup
	.venv/bin/ruff check .
	.venv/bin/mypy -p retinanet_edge.runtime -p retinanet_edge.training -p retinanet_edge.export

clean:
	rm -rf .venv .typing $(DEMO) data/scenes build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
