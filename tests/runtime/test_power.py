"""What nvidia-smi and tegrastats say, in lines as they print them, and the thread that listens to them."""

import os
import time

import pytest

from retinanet_edge.runtime.power import NO_USAGE, Reading, Usage, open_meter, parse_nvidia_smi, parse_tegrastats, usage_over

ORIN_NANO = (
    "11-21-2025 10:12:31 RAM 3179/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) CPU [3%@729,1%@729,0%@729,0%@729,0%@1510,0%@1510] "
    "EMC_FREQ 2%@2133 GR3D_FREQ 0%@[305] VIC_FREQ off APE 174 cpu@47.468C soc2@46.812C soc0@47.5C gpu@48.781C tj@48.781C soc1@48.093C "
    "VDD_IN 5000mW/4900mW VDD_CPU_GPU_CV 784mW/745mW VDD_SOC 1490mW/1470mW"
)
AGX_ORIN = (
    "03-04-2026 09:00:01 RAM 6120/62796MB (lfb 12x4MB) SWAP 0/31398MB (cached 0MB) CPU [10%@2201,off,off] GR3D_FREQ 99%@[1300,1300] "
    "cpu@52C gpu@50.125C VDD_GPU_SOC 4402mW/4300mW VDD_CPU_CV 1201mW/1100mW VIN_SYS_5V0 4436mW/4400mW NC 0mW/0mW "
    "VDDQ_VDD2_1V8AO 705mW/700mW NC 0mW/0mW"
)
NANO = (
    "RAM 1903/3964MB (lfb 4x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU [10%@102,5%@102,3%@102,2%@102] EMC_FREQ 1%@1600 "
    "GR3D_FREQ 0%@76 APE 25 PLL@39C CPU@42.5C PMIC@100C GPU@40C AO@47C thermal@41.25C POM_5V_IN 2850/2700 POM_5V_GPU 123/120 "
    "POM_5V_CPU 411/400"
)
TX2 = "RAM 1179/7852MB (lfb 1x2MB) CPU [0%@345,off,off,0%@345] VDD_SYS_GPU 76/76 VDD_SYS_SOC 457/457 VDD_IN 3123/3080 VDD_SYS_CPU 305/305"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("118.34, 1843\n", Usage(118.34, 1843.0)),
        ("[N/A], 1843\n", Usage(None, 1843.0)),
        ("[Not Supported], [Not Supported]", NO_USAGE),
        ("No devices were found", NO_USAGE),
        ("", NO_USAGE),
    ],
)
def test_lines_of_nvidia_smi(line, expected):
    assert parse_nvidia_smi(line) == expected


@pytest.mark.parametrize(
    ("line", "watts", "mebibytes"),
    [
        (ORIN_NANO, 5.0, 3179),
        (AGX_ORIN, 4.402 + 1.201 + 4.436, 6120),  # it has no rail for all; VDDQ is a part of the 5 V
        (NANO, 2.85, 1903),
        (TX2, 3.123, 1179),
    ],
    ids=["Orin Nano", "AGX Orin", "Nano", "TX2"],
)
def test_lines_of_tegrastats(line, watts, mebibytes):
    usage = parse_tegrastats(line)
    assert usage.power_w == pytest.approx(watts)
    assert usage.memory_mib == mebibytes


@pytest.mark.parametrize("line", ["", "VDD_CPU_CV 1201mW/1100mW", "RAM"])
def test_a_line_that_does_not_say_gives_nothing(line):
    assert parse_tegrastats(line) == NO_USAGE


def test_usage_is_mean_power_and_largest_memory_of_the_time_asked_for():
    readings = [
        Reading(0.9, Usage(500.0, 9000.0)), Reading(1.0, Usage(100.0, 1000.0)), Reading(1.5, Usage(None, 1600.0)),
        Reading(2.0, Usage(130.0, None)), Reading(2.1, Usage(500.0, 9000.0)),
    ]  # fmt: skip
    assert usage_over(readings, 1.0, 2.0) == Usage(115.0, 1600.0)  # (100 + 130) / 2
    assert usage_over(readings, 3.0, 4.0) == NO_USAGE


def write_tool(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def wait_for_power(meter, start):
    while meter.over(start, time.perf_counter()).power_w is None:
        time.sleep(0.01)
    return meter.over(start, time.perf_counter())


@pytest.fixture
def tools(tmp_path, monkeypatch):
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


def test_memory_counts_from_what_was_in_use_before(tools, monkeypatch):
    write_tool(tools, "nvidia-smi", 'echo "100.0, 1000"; case "$*" in *--loop-ms*) read x < go; echo "200.0, 1750"; sleep 1000;; esac')
    os.mkfifo(tools / "go")
    monkeypatch.chdir(tools)
    with open_meter("0000:3b:00.0") as meter:
        assert meter.before == Usage(100.0, 1000.0)
        start = time.perf_counter()
        (tools / "go").write_text("now\n")
        assert wait_for_power(meter, start) == Usage(200.0, 750.0)


def test_a_driver_that_does_not_know_instant_power_is_asked_for_the_other(tools):
    refuses = 'case "$*" in *power.draw.instant*) echo "Field is not a valid field to query."; exit 2;; esac'
    write_tool(tools, "nvidia-smi", f'{refuses}\ncase "$*" in *power.draw,memory.used*--id=0000:3b:00.0*) echo "77.5, 12";; esac')
    with open_meter("0000:3b:00.0") as meter:
        assert meter.before == Usage(77.5, 12.0)


def test_on_a_jetson_tegrastats_is_asked(tools):
    write_tool(tools, "nvidia-smi", 'echo "1.0, 1"')
    write_tool(tools, "tegrastats", f'test "$*" = "--interval 100" && echo "{ORIN_NANO}"')
    with open_meter("0000:01:00.0") as meter:
        assert meter.before == Usage(5.0, 3179.0)


@pytest.mark.parametrize("script", [None, "exit 9", "exec sleep 0"], ids=["absent", "fails", "silent"])
def test_without_a_tool_that_speaks_there_are_no_figures(tools, script):
    if script is not None:
        write_tool(tools, "nvidia-smi", script)
    with open_meter("0000:01:00.0") as meter:
        assert meter.over(0.0, time.perf_counter()) == NO_USAGE


def test_without_a_gpu_no_tool_is_started(tools):
    write_tool(tools, "nvidia-smi", f"touch {tools}/started; echo 1.0, 1")
    with open_meter(None) as meter:
        assert meter.over(0.0, time.perf_counter()) == NO_USAGE
    assert not (tools / "started").exists()
