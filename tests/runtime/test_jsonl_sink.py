import json
import os
import resource
from pathlib import Path

import pytest

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.jsonl_sink import JsonlSink
from retinanet_edge.runtime.output_paths import check_output, check_output_folder, plain_name
from retinanet_edge.runtime.result_json import events_as_json
from retinanet_edge.runtime.rotation import Keep, Rotation, finished_files, prune, stamped_path
from retinanet_edge.runtime.sink import SinkError
from retinanet_edge.runtime.stream_summary import read_stream
from tests.runtime.stream_results import UNIX_S, crossing, refused, result_of, two_found, written

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/stream-line.schema.json").read_text())
COUNTS = {"lines": {"gate": {"in": {"dog": 1}, "out": {}}},
          "zones": {"yard": {"inside": {}, "entered": {}, "mean_stay_s": None, "longest_stay_s": 0.0}}}  # fmt: skip


def full_result(index=3):
    return result_of(index, found=two_found(), tracks=[7, -1], events=[crossing()], counts=COUNTS)


def indices(path):
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


class TestLine:
    def test_it_holds_what_was_found(self, tmp_path):
        written(JsonlSink(tmp_path / "a.jsonl"), [full_result(), result_of(5, camera="", unix_s=0)])
        first, second = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
        assert first == {
            "schema": 2,
            "camera": "front",
            "frame": 3,
            "utc": "2026-11-21T14:01:02.123Z",
            "time_s": 0.12,
            "latency_ms": 12.346,
            "size": [64, 48],
            "detections": [
                {"class": "dog", "score": 0.9877, "xyxy": [1.23, 2.0, 30.0, 40.57], "track": 7},
                {"class": "cat", "score": 0.5, "xyxy": [5.0, 6.0, 17.0, 18.0]},
            ],
            "events": [{"event": "crossed_in", "region": "gate", "track": 7, "class": "dog", "time_s": 0.12}],
            "counts": COUNTS,
        }
        assert second == {
            "schema": 2, "camera": "", "frame": 5, "time_s": 0.2, "latency_ms": 12.346, "size": [64, 48], "detections": [],
        }  # fmt: skip

    def test_an_event_by_itself_says_where_and_when(self):
        assert events_as_json(full_result()) == [{
            "schema": 2, "camera": "front", "frame": 3, "utc": "2026-11-21T14:01:02.123Z",
            "event": "crossed_in", "region": "gate", "track": 7, "class": "dog", "time_s": 0.12,
        }]  # fmt: skip

    def test_each_line_is_in_the_file_at_once(self, tmp_path):
        sink = JsonlSink(tmp_path / "a.jsonl")
        for count in (1, 2, 3):
            sink.write(result_of(count))
            assert len((tmp_path / "a.jsonl").read_text().splitlines()) == count
        sink.close()

    def test_no_frame_no_file(self, tmp_path):
        written(JsonlSink(tmp_path / "a.jsonl"), [])
        assert not (tmp_path / "a.jsonl").exists()

    def test_without_rotation_an_old_file_is_overwritten(self, tmp_path):
        (tmp_path / "a.jsonl").write_text("old\n")
        written(JsonlSink(tmp_path / "a.jsonl"), [result_of(1)])
        assert indices(tmp_path / "a.jsonl") == [1]


def complaints(schema, value, where="line"):
    """What a value has against a JSON Schema, of the few keywords that ours uses; any other keyword is an error."""
    schema = dict(schema)
    for comment in ("$schema", "$id", "title", "description", "$defs"):
        schema.pop(comment, None)
    if reference := schema.pop("$ref", None):
        schema = {**schema, **SCHEMA["$defs"][reference.removeprefix("#/$defs/")]}
        schema.pop("description", None)
    types = {"object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "null": type(None)}
    wanted = schema.pop("type", list(types))
    wanted = [wanted] if isinstance(wanted, str) else wanted
    if not any(isinstance(value, types[name]) for name in wanted) or isinstance(value, bool):
        return [f"{where}: {value!r} is no {wanted}"]
    found = []
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: {value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: {value!r} is too small")
    if "maximum" in schema and value > schema["maximum"]:
        found.append(f"{where}: {value!r} is too large")
    if "format" in schema and not (schema["format"] == "date-time" and value.endswith("Z") and "T" in value):
        found.append(f"{where}: {value!r} is no time")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{where}: has {len(value)} items")
        for index, item in enumerate(value):
            found += complaints(schema["items"], item, f"{where}[{index}]")
    if isinstance(value, dict):
        found += [f"{where}: lacks {name}" for name in schema.get("required", ()) if name not in value]
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            found += [f"{where}: has {name}"] if inner is False else complaints(inner, item, f"{where}.{name}")
    known = {"const", "enum", "minimum", "maximum", "format", "minItems", "maxItems", "items", "required", "properties",
             "additionalProperties"}  # fmt: skip
    assert set(schema) <= known, f"a keyword that this check does not know: {set(schema) - known}"
    return found


class TestSchema:
    def test_lines_are_as_the_schema_says(self, tmp_path):
        written(JsonlSink(tmp_path / "a.jsonl"), [full_result(), result_of(5, camera="", unix_s=0)])
        for line in (tmp_path / "a.jsonl").read_text().splitlines():
            assert complaints(SCHEMA, json.loads(line)) == []

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [({"schema": 1}, "is not 2"), ({"frame": "3"}, "is no"), ({"size": [1]}, "has 1 items"), ({"more": 1}, "has more"),
         ({"detections": [{"class": "cat", "score": 1.5, "xyxy": [0, 0, 1, 1]}]}, "too large"),
         ({"detections": [{"class": "cat", "xyxy": [0, 0, 1, 1]}]}, "lacks score")],
    )  # fmt: skip
    def test_it_refuses_others(self, tmp_path, change, complaint):
        written(JsonlSink(tmp_path / "a.jsonl"), [full_result()])
        (found,) = complaints(SCHEMA, json.loads((tmp_path / "a.jsonl").read_text()) | change)
        assert complaint in found

    def test_the_summary_reads_both_versions(self, tmp_path):
        new, old = tmp_path / "new.jsonl", tmp_path / "old.jsonl"
        written(JsonlSink(new), [full_result(0), full_result(25)])
        lines = [json.loads(line) for line in new.read_text().splitlines()]
        kept = ("frame", "time_s", "latency_ms", "detections")
        old.write_text("".join(json.dumps({name: line[name] for name in kept}) + "\n" for line in lines))
        for path in (new, old):
            summary = read_stream(path)
            assert (summary.frames, summary.seconds, summary.detections) == (2, 1.0, {"dog": 2, "cat": 2})


class TestFullDisk:
    def test_it_is_one_line(self):
        sink = JsonlSink(Path("/dev/full"))
        for _ in range(2):
            assert refused(sink, result_of()) == (
                "cannot write /dev/full (No space left on device): free some space or name another file"
            )
        sink.close()

    def test_no_half_line_stays_and_it_goes_on_after_the_last_whole_one(self, tmp_path):
        path = tmp_path / "a.jsonl"
        sink, limits = JsonlSink(path), resource.getrlimit(resource.RLIMIT_FSIZE)
        sink.write(result_of(0))
        whole = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, limits[1]))
        try:
            for _ in range(3):
                with pytest.raises(SinkError, match="File too large"):
                    sink.write(result_of(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == whole
        sink.write(result_of(2))
        sink.close()
        assert indices(path) == [0, 2]

    def test_half_a_line_that_could_not_be_taken_back_goes_when_the_file_is_opened_again(self, tmp_path):
        path = tmp_path / "a.jsonl"
        sink = JsonlSink(path)
        sink.write(result_of(0))
        with path.open("ab") as other:
            other.write(b'{"frame": 1, "ti')
        sink.close()
        sink.write(result_of(2))
        sink.close()
        assert indices(path) == [0, 2]

    def test_a_file_deleted_meanwhile_is_begun_anew(self, tmp_path):
        path = tmp_path / "a.jsonl"
        sink = JsonlSink(path)
        sink.write(result_of(0))
        sink.close()
        path.unlink()
        written(sink, [result_of(1)])
        assert indices(path) == [1]


class TestRotation:
    def test_a_file_is_put_aside_before_it_outgrows_its_size(self, tmp_path):
        path, line = tmp_path / "a.jsonl", len(_line_of(tmp_path))
        written(JsonlSink(path, Rotation(max_size=3 * line + 1)), [result_of(index, timestamp_s=1.0) for index in range(10, 18)])
        files = [*finished_files(path), path]
        assert [indices(file) for file in files] == [[10, 11, 12], [13, 14, 15], [16, 17]]
        assert all(file.stat().st_size <= 3 * line + 1 for file in files)

    def test_a_line_larger_than_a_file_has_one_of_its_own(self, tmp_path):
        path = tmp_path / "a.jsonl"
        written(JsonlSink(path, Rotation(max_size=1)), [result_of(index) for index in range(3)])
        assert [indices(file) for file in [*finished_files(path), path]] == [[0], [1], [2]]

    def test_a_file_is_put_aside_after_its_time(self, tmp_path):
        path = tmp_path / "a.jsonl"
        written(JsonlSink(path, Rotation(max_seconds=0)), [result_of(0), result_of(1)])
        written(JsonlSink(tmp_path / "b.jsonl", Rotation(max_seconds=3600)), [result_of(0), result_of(1)])
        assert [indices(file) for file in [*finished_files(path), path]] == [[0], [1]]
        assert finished_files(tmp_path / "b.jsonl") == []

    @pytest.mark.parametrize(("keep", "kept"), [(Keep(files=2), 2), (Keep(files=0), 0), (Keep(), 9), (Keep(size=350), 2)])
    def test_the_newest_are_kept(self, tmp_path, keep, kept):
        """Nine are put aside. A line has 112 to 125 bytes: two are 350 at most, three are not."""
        path = tmp_path / "a.jsonl"
        written(JsonlSink(path, Rotation(max_size=1, keep=keep)), [result_of(index) for index in range(10)])
        assert [indices(file) for file in finished_files(path)] == [[index] for index in range(9 - kept, 9)]
        assert indices(path) == [9]

    def test_what_an_earlier_process_left_is_kept_under_the_time_of_its_last_line(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text("old\n")
        os.utime(path, (UNIX_S, UNIX_S))
        written(JsonlSink(path, Rotation(max_size=1000)), [result_of(1)])
        assert (tmp_path / "a-20261121T140102.123Z.jsonl").read_text() == "old\n"
        assert indices(path) == [1]

    def test_names_grow_even_where_the_clock_goes_back(self, tmp_path):
        path = tmp_path / "a.jsonl"
        names = []
        for unix_s in (UNIX_S, UNIX_S, 0.0, UNIX_S + 1):
            names.append(stamped_path(path, unix_s))
            names[-1].touch()
        assert [name.name for name in names] == [
            f"a-20261121T140{time}Z.jsonl" for time in ("102.123", "102.124", "102.125", "103.123")
        ]

    def test_files_of_others_are_left_alone(self, tmp_path):
        path = tmp_path / "a.jsonl"
        others = ["a-old.jsonl", "ab-20261121T140102.123Z.jsonl", "a-b-20261121T140102.123Z.jsonl", "a-20261121T140102.123Z.csv"]
        for name in others:
            (tmp_path / name).touch()
        assert finished_files(path) == []
        prune([tmp_path / others[0]], Keep(files=1))
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(others)


def _line_of(folder):
    path = folder / "line"
    written(JsonlSink(path), [result_of(10, timestamp_s=1.0)])
    return path.read_text()


class TestPaths:
    def test_what_can_be_written_passes_and_leaves_no_trace(self, tmp_path):
        (tmp_path / "old").write_text("kept")
        check_output(tmp_path / "old", "--jsonl")
        check_output(tmp_path / "new", "--jsonl")
        check_output(Path("/dev/full"), "--jsonl")
        check_output_folder(tmp_path, "--snapshots")
        check_output_folder(tmp_path / "new", "--snapshots")
        assert [path.name for path in tmp_path.iterdir()] == ["old"]
        assert (tmp_path / "old").read_text() == "kept"

    def test_a_missing_folder_a_folder_and_a_folder_not_writable(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserInputError, match=r"--video must be in a folder that exists, got .*: run mkdir -p"):
            check_output(tmp_path / "none" / "a.mp4", "--video")
        with pytest.raises(UserInputError, match="--jsonl must name a file, got the folder"):
            check_output(tmp_path, "--jsonl")
        with pytest.raises(UserInputError, match="--jsonl must be in a writable folder"):
            check_output(Path("/proc/a.jsonl"), "--jsonl")  # refuses root, too
        with pytest.raises(UserInputError, match="--snapshots must name a folder, got the file"):
            check_output_folder(tmp_path / "file", "--snapshots")
        with pytest.raises(UserInputError, match=r"--snapshots must be in a folder that exists"):
            check_output_folder(tmp_path / "none" / "a", "--snapshots")
        with pytest.raises(UserInputError, match="--snapshots must be in a writable folder"):
            check_output_folder(Path("/proc/a"), "--snapshots")

    @pytest.mark.parametrize(
        ("name", "plain"),
        [("front", "front"), ("rtsp://10.0.0.1/a b", "rtsp_10.0.0.1_a_b"), ("../../etc", "etc"), ("+/#", "camera"), ("", "camera"),
         ("Tür", "T_r")],
    )  # fmt: skip
    def test_names_are_safe_in_files_and_topics(self, name, plain):
        assert plain_name(name) == plain
