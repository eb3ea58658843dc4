"""All checks of a machine, and their report: a table for people, JSON for machines."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retinanet_edge.runtime import health_gpu, health_machine, health_model, health_software, jetson
from retinanet_edge.runtime.errors import RetinaNetEdgeError
from retinanet_edge.runtime.health_check import Check, Status, run_check

MACHINE_CHECKS: tuple[Callable[[], Check], ...] = (
    health_software.python, health_software.operating_system, health_software.numpy,
    jetson.jetpack, jetson.power_mode,
    health_gpu.gpu, health_gpu.tensorrt, health_gpu.nms_plugin, health_gpu.openvino,
    health_software.opencv, health_software.pyav, health_software.web_page, health_software.mqtt, health_software.metrics,
    health_machine.cameras, jetson.csi_camera,
    health_machine.memory, health_machine.swap, health_machine.disk, health_machine.clock,
)  # fmt: skip
MODEL_CHECKS: tuple[Callable[[str], Check], ...] = (
    health_model.model_card, health_model.model_files, health_model.model_engine, health_model.int8_verdict,
)  # fmt: skip
_AT_ONCE = 4
_COLOR: dict[Status, str] = {"ok": "\033[32m", "warning": "\033[33m", "failed": "\033[31m", "absent": "\033[2m"}
_PLAIN = "\033[0m"


def examine(model: Path, as_json: bool) -> None:
    """Run all checks and print their report. Raises RetinaNetEdgeError where one failed."""
    checks = run_checks(model)
    if as_json:
        print(json_text(checks))
    else:
        print(table(checks, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    failed = sum(check.status == "failed" for check in checks)
    if failed:
        raise RetinaNetEdgeError(f"{failed} of {len(checks)} checks failed: do what stands beside fix")


def run_checks(model: Path) -> list[Check]:
    """Run all checks, a few at once, and return what they found in the order of the report."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        machine = [pool.submit(run_check, check) for check in MACHINE_CHECKS]
        folder = [pool.submit(run_check, check, str(model)) for check in MODEL_CHECKS]
        return [future.result() for future in (*machine, *folder)]


def table(checks: Sequence[Check], *, color: bool = False) -> str:
    """Return the checks as a table, a fix below what it is for, and their count."""
    widest = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        status = f"{check.status:<7}"
        lines.append(f"{f'{_COLOR[check.status]}{status}{_PLAIN}' if color else status}  {check.name:<{widest}}  {check.found}")
        if check.fix is not None:
            lines.append(f"{'':<{widest + 11}}fix: {check.fix}")
    count = Counter(check.status for check in checks)
    return "\n".join([*lines, "", ", ".join(f"{count[status]} {status}" for status in _COLOR if count[status])])


def json_text(checks: Sequence[Check]) -> str:
    """Return the checks as JSON: {"failed": whether one did, "checks": [{"name", "status", "found", "fix"}]}."""
    failed = any(check.status == "failed" for check in checks)
    return json.dumps({"failed": failed, "checks": [dataclasses.asdict(check) for check in checks]}, indent=2)
