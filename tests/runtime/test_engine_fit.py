from dataclasses import replace

import pytest

from retinanet_edge.runtime.engine_fit import difference, dla_core_of, machine_of, needs_plugin
from retinanet_edge.runtime.model_card import EngineRecord
from retinanet_edge.runtime.tensorrt_library import Machine

RECORD = EngineRecord(
    file="model.int8.engine", sha256="0" * 64, precision="int8", onnx_sha256="1" * 64, tensorrt="10.3.0", gpu="A", compute_capability="8.7",
    plugin_version="1", max_batch=1, built="2024-01-01T00:00:00+00:00", options={},
)  # fmt: skip
HERE = machine_of(RECORD)


def runs(here, tensorrt="10.3.0", capability="8.7", **options):
    record = replace(RECORD, tensorrt=tensorrt, compute_capability=capability, options=options)
    return difference(record, here) is None


def test_an_engine_runs_where_it_was_built():
    assert runs(HERE)
    assert runs(HERE, version_compatible="False", hardware_compatible="False")


@pytest.mark.parametrize("here", [Machine("10.3.1", "A", "8.7"), Machine("10.3.0", "B", "8.7"), Machine("10.3.0", "A", "8.9")])
def test_it_runs_nowhere_else_and_says_what_differs(here):
    text = difference(RECORD, here)
    assert text == f"model.int8.engine was built for {HERE}, but here is {here}"


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ("10.3.0", "10.16.1.11", True),  # newer: 16 > 3 though "16" < "3" as text
        ("10.16.1.11", "10.3.0", False),
        ("8.6.1", "8.6.3", True),
        ("8.5.3.1", "8.6.1", False),  # before 8.6 there were none such
        ("8.6.1", "10.3.0", False),
        ("10.3.0", "11.4.0.106", False),
    ],
)
def test_a_version_compatible_engine_runs_on_newer_ones_of_its_major_version(built, here, fits):
    assert runs(replace(HERE, tensorrt=here), tensorrt=built, version_compatible="True") == fits
    assert not runs(replace(HERE, tensorrt=here), tensorrt=built)


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [("8.7", "9.0", True), ("9.0", "8.0", True), ("8.0", "12.0", True), ("8.7", "7.5", False), ("7.5", "8.7", False)],
)
def test_a_hardware_compatible_engine_runs_on_ampere_and_newer(built, here, fits):
    other = Machine("10.3.0", "B", here)
    assert runs(other, capability=built, hardware_compatible="True") == fits
    assert not runs(other, capability=built)


def test_each_compatibility_is_of_its_own_kind():
    assert not runs(replace(HERE, gpu="B"), version_compatible="True")
    assert not runs(replace(HERE, tensorrt="10.4.0"), hardware_compatible="True")
    assert runs(Machine("10.4.0", "B", "9.0"), version_compatible="True", hardware_compatible="True")
    text = difference(replace(RECORD, options={"version_compatible": "True", "hardware_compatible": "True"}), Machine("11.0", "B", "7.0"))
    assert "and newer ones of its major version and GPUs from compute capability 8.0 on, but here is TensorRT 11.0 on B" in (text or "")


def test_normalised_input_is_for_other_programs():
    text = difference(replace(RECORD, options={"input": "fp32-nchw"}), HERE)
    assert "float32 images that are normalised already, as DeepStream and Triton give them" in (text or "")
    assert runs(HERE, input="uint8-nhwc")


def test_what_else_the_options_say():
    assert needs_plugin(RECORD)
    assert needs_plugin(replace(RECORD, options={"nms": "efficient"}))
    assert not needs_plugin(replace(RECORD, options={"nms": "native"}))
    assert dla_core_of(RECORD) is None
    assert dla_core_of(replace(RECORD, options={"dla_core": "None"})) is None
    assert dla_core_of(replace(RECORD, options={"dla_core": "1"})) == 1
