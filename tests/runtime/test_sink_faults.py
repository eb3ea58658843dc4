"""What a pole in the rain does to sinks: killed at random, a disk that fills and is emptied, everything at once."""

import json
import random
import subprocess
import sys
from pathlib import Path

import av
import pytest

from retinanet_edge.runtime.csv_sink import CsvSink
from retinanet_edge.runtime.jsonl_sink import JsonlSink
from retinanet_edge.runtime.rotation import Rotation, finished_files
from retinanet_edge.runtime.sink_runner import SinkRunner
from tests.runtime.small_disk import small_disk
from tests.runtime.stream_results import result_of, two_found, wait_until

STREAM = """
import sys
from pathlib import Path
from retinanet_edge.runtime.jsonl_sink import JsonlSink
from retinanet_edge.runtime.rotation import Rotation
from retinanet_edge.runtime.sink_runner import SinkRunner
from retinanet_edge.runtime.video_segments import VideoSink
from tests.runtime.stream_results import camera_of, result_of, two_found
folder = Path(sys.argv[1])
sinks = [JsonlSink(folder / "a.jsonl", Rotation(max_size=20_000)), VideoSink(folder / "a.mp4", [camera_of()], segment_seconds=2)]
runners = [SinkRunner(sink, lossless=True) for sink in sinks]
for index in range(1_000_000):
    for runner in runners:
        runner.put(result_of(index, found=two_found()))
    if index == 200:
        print("runs", flush=True)
"""


def frames_of_lines(path):
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def playable_frames(path):
    """How many frames there are before the file ends, or breaks off in what was being written when the process was killed."""
    count = 0
    try:
        with av.open(str(path)) as container:
            for _ in container.decode(video=0):
                count += 1
    except av.error.FFmpegError:
        pass
    return count


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_time_lines_are_whole_and_segments_play(tmp_path, seed):
    """Segments of 50 frames: all but the last are whole. Lines are there in order and without a gap, over all files."""
    with subprocess.Popen(
        [sys.executable, "-c", STREAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout.readline() == "runs\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(random.Random(seed).uniform(0, 0.4))
        process.kill()
    files = [*finished_files(tmp_path / "a.jsonl"), tmp_path / "a.jsonl"]
    lines = [frame for file in files if file.exists() for frame in frames_of_lines(file)]
    assert lines == list(range(len(lines)))
    assert len(lines) >= 150
    segments = [playable_frames(file) for file in finished_files(tmp_path / "a.mp4")]
    assert len(segments) >= 3
    assert set(segments[:-1]) == {50}


def test_a_disk_that_fills_and_is_emptied(tmp_path):
    """On one megabyte: lines and rows stop whole, other sinks run on, and both go on when there is room."""
    elsewhere = tmp_path / "else.jsonl"
    with small_disk(tmp_path, megabytes=1) as disk:
        paths = [disk / "a.jsonl", disk / "a.csv", elsewhere]
        runners = [
            SinkRunner(sink, lossless=True)
            for sink in (JsonlSink(paths[0]), CsvSink(paths[1], Rotation(max_size=20_000)), JsonlSink(elsewhere))
        ]
        (disk / "filler").write_bytes(bytes(900_000))
        indices = iter(range(100_000))

        def feed():
            for _ in range(20):
                index = next(indices)
                for runner in runners:
                    runner.put(result_of(index, found=two_found()))
            return [runner.status for runner in runners]

        assert wait_until(lambda: all(status.failed > 50 for status in feed()[:2]))
        for path, runner in zip(paths, runners[:2], strict=False):
            assert "No space left on device" in runner.status.message
            assert wait_until(lambda path=path: path.read_bytes().endswith(b"\n"))  # not while half a line is being taken back
        assert runners[2].status.failed == 0
        (disk / "filler").unlink()
        written = [runner.status.written for runner in runners]
        assert wait_until(lambda: all(status.written > before + 50 for status, before in zip(feed(), written, strict=True)))
        fed = next(indices)
        for runner in runners:
            runner.close()
            assert runner.status.message is None
            assert runner.status.written + runner.status.failed == fed
        lines = frames_of_lines(paths[0])
        assert lines == sorted(set(lines))
        assert len(lines) == runners[0].status.written
        assert frames_of_lines(elsewhere) == list(range(fed))
