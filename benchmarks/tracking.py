"""Measure our tracker against ByteTrack of the `trackers` package: processor time of a frame, and how well ids stay.

All take their turns on the same generated crowds in one run. Things are of one class, as theirs does not tell classes apart. It needs an
environment of its own, as that package brings an OpenCV of its own:

    python -m venv /tmp/trackers && /tmp/trackers/bin/pip install -e . trackers && /tmp/trackers/bin/python benchmarks/tracking.py
"""

import argparse
import csv
import datetime
import importlib.metadata
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

try:
    import numpy as np
    from result_file import result_path

    from retinanet_edge.runtime import tracker as our_module
    from retinanet_edge.runtime.arguments import whole_number
    from retinanet_edge.runtime.boxes import area, iou
    from retinanet_edge.runtime.detections import Detections
    from retinanet_edge.runtime.errors import UserInputError, run_command
    from retinanet_edge.runtime.tracker import Tracker
except ModuleNotFoundError:
    print("error: retinanet-edge is not installed: run make setup, then use .venv/bin/python (or pip install -e '.[cpu]')", file=sys.stderr)
    sys.exit(2)

THEIRS, OURS, EXACT = "trackers ByteTrack", "ours", "ours, exact assignment"
FRAMES_OF_OBJECTS = {10: 500, 50: 300, 200: 150}
HEIGHT, WIDTH, OUTSIDE = 1080, 1920, 200
THRESHOLD, LEAST_SCORE, MISSED = 0.5, 0.05, 0.05
FOUND_IOU = 0.5  # from which an id counts as being on a thing


@dataclass(frozen=True)
class Moment:
    """A frame: who is there (identities [n]), where (xyxy [n, 4]), and what a detector makes of it."""

    identities: Any
    boxes: Any
    detections: Detections
    timestamp_s: float


@dataclass(frozen=True)
class Condition:
    """fps: frames per second. noise: deviation of a detected side over the box's own sides."""

    name: str
    fps: float
    noise: float


CONDITIONS = (Condition("steady", 25, 0.03), Condition("slow and noisy", 5, 0.08))


def main() -> None:
    """Parse the arguments, measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=whole_number(1), default=4, help="scenes for each number of objects (default %(default)s)")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to write (default benchmarks/tracking_<machine>.csv)")
    arguments = parser.parse_args()
    entries = make_entries()
    from retinanet_edge.runtime.speed import machine

    name = machine("numpy")
    out = result_path("tracking", name, arguments.out)
    run = {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(), "machine": name, "numpy": np.__version__,
        "trackers": importlib.metadata.version("trackers"), "scenes": arguments.scenes,
    }  # fmt: skip
    rows = []
    for condition in CONDITIONS:
        for objects, frames in FRAMES_OF_OBJECTS.items():
            scenes = [crowd(objects, frames, seed, condition) for seed in range(arguments.scenes)]
            rows += measure(entries, scenes, {"condition": condition.name, "objects": objects})
            print_rows(rows[-len(entries) :])
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*run, *rows[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**run, **row} for row in rows)
    print(f"wrote {out}")


def make_entries() -> dict[str, Callable[[float], Callable[[Moment], Any]]]:
    """Return what makes a tracker for a frame rate; a tracker takes a moment and returns the id of each detection, -1 for none."""
    try:
        import scipy.optimize
        import supervision
        import trackers
    except ModuleNotFoundError as error:
        raise UserInputError(f"this needs the trackers package, got no {error.name}: see -h for an environment that has it") from None
    warnings.simplefilter("ignore")  # of supervision's coming changes

    def ours(_: float) -> Callable[[Moment], Any]:
        tracker = Tracker(THRESHOLD)
        return lambda moment: tracker.update(moment.detections, moment.timestamp_s)

    def exact(similarity: Any) -> Any:
        rows, columns = scipy.optimize.linear_sum_assignment(-similarity)
        real = similarity[rows, columns] > 0
        return rows[real], columns[real]

    def ours_exact(fps: float) -> Callable[[Moment], Any]:
        track = ours(fps)

        def take(moment: Moment) -> Any:
            with patch.object(our_module, "best_pairs_first", exact):
                return track(moment)

        return take

    def theirs(fps: float) -> Callable[[Moment], Any]:
        tracker = trackers.ByteTrackTracker(frame_rate=fps, track_activation_threshold=THRESHOLD, high_conf_det_threshold=THRESHOLD)

        def take(moment: Moment) -> Any:
            found = moment.detections
            numbered = supervision.Detections(
                xyxy=found.xyxy, confidence=found.scores, class_id=found.classes, data={"index": np.arange(len(found))}
            )
            tracked = tracker.update(numbered)
            ids = np.full(len(found), -1)
            if len(tracked):
                ids[tracked.data["index"]] = tracked.tracker_id
            return ids

        return take

    return {THEIRS: theirs, OURS: ours, EXACT: ours_exact}


def crowd(objects: int, frames: int, seed: int, condition: Condition) -> list[Moment]:
    """Return a scene of things that sway across the picture and hide each other: who stands lower is nearer.

    A score falls with what is hidden, a detection is missed now and then, and some are of nothing.
    """
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.05, 0.2 if objects < 100 else 0.09, objects) * HEIGHT
    stretch = rng.uniform(0.7, 1.27, objects)
    sides, picture = np.column_stack([size * stretch, size / stretch]), np.array([WIDTH, HEIGHT])
    place, speed = rng.uniform(0, 1, (objects, 2)) * picture, rng.normal(0, 1, (objects, 2)) * [0.06 * WIDTH, 0.04 * HEIGHT]
    sway, pace, phase = rng.uniform(0, 0.03, (objects, 2)) * picture, rng.uniform(0.5, 2, (objects, 2)), rng.uniform(0, 6.3, (objects, 2))
    scene = []
    for index in range(frames):
        time_s = index / condition.fps
        way = place + speed * time_s + sway * np.sin(pace * time_s + phase) + OUTSIDE
        turns, centres = np.floor(way / (picture + 2 * OUTSIDE)), way % (picture + 2 * OUTSIDE) - OUTSIDE
        there = np.flatnonzero(((centres > 0) & (centres < picture)).all(axis=1))
        boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)[there]
        identities = there + objects * (turns[there, 0] + 1000 * turns[there, 1]).astype(int)  # who leaves comes back as another
        scene.append(Moment(identities, boxes, detect(rng, boxes, condition.noise), time_s))
    return scene


def detect(rng: np.random.Generator, boxes: Any, noise: float) -> Detections:
    """Return what a detector might make of boxes [n, 4]."""
    scores = 0.9 - 0.9 * hidden(boxes) + rng.normal(0, 0.08, len(boxes))
    seen = (scores > LEAST_SCORE) & (rng.random(len(boxes)) > MISSED)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    found = (boxes + rng.normal(0, noise, boxes.shape) * sides)[seen]
    false = rng.poisson(1 + len(boxes) / 20)
    centres, halves = rng.uniform(0, 1, (false, 2)) * [WIDTH, HEIGHT], rng.uniform(15, 50, (false, 2))
    xyxy = np.concatenate([found, np.concatenate([centres - halves, centres + halves], axis=1)])
    all_scores = np.concatenate([scores[seen], LEAST_SCORE + rng.exponential(0.15, false)]).clip(0, 0.99)
    order = np.argsort(-all_scores, kind="stable")
    return Detections(xyxy[order].astype(np.float32), all_scores[order].astype(np.float32), np.zeros(len(order), np.int64))


def hidden(boxes: Any) -> Any:
    """Return the share [n] of each box that nearer ones cover, 1 at most."""
    sides = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    common = np.maximum(sides, 0).prod(axis=2)
    nearer = boxes[None, :, 3] > boxes[:, None, 3]
    return np.minimum((common * nearer).sum(axis=1) / area(boxes), 1)


def measure(entries: dict[str, Any], scenes: Sequence[list[Moment]], setting: dict[str, object]) -> list[dict[str, object]]:
    """Return a row for each entry: milliseconds of the processor for a frame, and quality over all scenes."""
    times: dict[str, list[float]] = {name: [] for name in entries}
    qualities: dict[str, list[tuple[float, int, int, int]]] = {name: [] for name in entries}
    for scene in scenes:
        fps = 1 / (scene[1].timestamp_s - scene[0].timestamp_s)
        takes = {name: make(fps) for name, make in entries.items()}
        ids: dict[str, list[Any]] = {name: [] for name in entries}
        for moment in scene:
            for name, take in takes.items():
                start = time.thread_time()  # of the processor, so that what else the machine does is not in it
                ids[name].append(take(moment))
                times[name].append((time.thread_time() - start) * 1e3)
        for name in entries:
            qualities[name].append((idf1(scene, ids[name]), switches(scene, ids[name]), *how_many(scene, ids[name])))
    rows = []
    for name in entries:
        middle, of_all = statistics.median(times[name]), np.mean(qualities[name], axis=0)
        rows.append({
            **setting, "tracker": name, "cpu_ms_p50": f"{middle:.3f}", "cpu_ms_p95": f"{np.percentile(times[name], 95):.3f}",
            "times_faster": f"{statistics.median(times[THEIRS]) / middle:.2f}", "idf1": f"{of_all[0]:.4f}",
            "id_switches": f"{of_all[1]:.1f}", "tracks": f"{of_all[2]:.1f}", "things": f"{of_all[3]:.1f}",
        })  # fmt: skip
    return rows


def idf1(scene: Sequence[Moment], ids: Sequence[Any]) -> float:
    """Return IDF1 (Ristani et al. 2016): the share of places where a thing has the one id that fits its whole way best."""
    from scipy.optimize import linear_sum_assignment

    common: Counter[tuple[int, int]] = Counter()
    for moment, given in zip(scene, ids, strict=True):
        for thing, detection in zip(*np.nonzero(on_things(moment, given)), strict=True):
            common[int(moment.identities[thing]), int(given[detection])] += 1
    things, tracks = sorted({thing for thing, _ in common}), sorted({track for _, track in common})
    frames = np.zeros((len(things), len(tracks)))
    for (thing, track), count in common.items():
        frames[things.index(thing), tracks.index(track)] = count
    right = frames[linear_sum_assignment(-frames)].sum()
    return float(2 * right / (sum(len(moment.identities) for moment in scene) + sum(int((given >= 0).sum()) for given in ids)))


def switches(scene: Sequence[Moment], ids: Sequence[Any]) -> int:
    """Return how often a thing has another id than when it had one last (CLEAR MOT, Bernardin and Stiefelhagen 2008)."""
    from scipy.optimize import linear_sum_assignment

    last: dict[int, int] = {}
    count = 0
    for moment, given in zip(scene, ids, strict=True):
        fits = on_things(moment, given).astype(float)
        before = np.array([last.get(int(thing), -1) for thing in moment.identities])
        fits *= 1 + 10 * (before[:, None] == given)  # an id that still fits stays
        for thing, detection in zip(*linear_sum_assignment(-fits), strict=True):
            if fits[thing, detection]:
                count += before[thing] not in (-1, given[detection])
                last[int(moment.identities[thing])] = int(given[detection])
    return count


def on_things(moment: Moment, given: Any) -> Any:
    """Return whether each detection [M] is on each thing and has an id: bool [n, M]."""
    return (iou(moment.boxes, moment.detections.xyxy) >= FOUND_IOU) & (given >= 0)


def how_many(scene: Sequence[Moment], ids: Sequence[Any]) -> tuple[int, int]:
    """Return the number of ids given and of things there were."""
    given = np.unique(np.concatenate(ids))
    return int((given >= 0).sum()), len(np.unique(np.concatenate([moment.identities for moment in scene])))


def print_rows(rows: Sequence[dict[str, object]]) -> None:
    print(f"{rows[0]['objects']} objects, {rows[0]['condition']}")
    for row in rows:
        print(
            f"  {row['tracker']:<24}{row['cpu_ms_p50']:>8} ms (p95 {row['cpu_ms_p95']}), {row['times_faster']} times as fast; "
            f"IDF1 {row['idf1']}, {row['id_switches']} switches, {row['tracks']} ids for {row['things']} things"
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
