"""The command as a process of its own: exit codes, one line for each mistake, and how it ends."""

import json
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

PROGRAM = Path(__file__).with_name("bright_engine.py")
STREAM = Path(__file__).parents[2] / "runtime" / "stream.py"
bright = runpy.run_path(str(PROGRAM))
write_model, write_video = bright["write_model"], bright["write_video"]


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def run_program(program, *arguments):
    return subprocess.run([sys.executable, program, *map(str, arguments)], capture_output=True, text=True, check=False)


def count_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_video_becomes_a_video_and_lines(tmp_path, model):
    source = write_video(tmp_path / "a.mp4", 30)
    run = run_program(PROGRAM, "--camera", source, "--model", model, "--video", tmp_path / "o.mp4", "--jsonl", tmp_path / "o.jsonl")
    assert run.returncode == 0, run.stderr
    assert count_frames(tmp_path / "o.mp4") == 30
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(30))
    assert run.stdout.startswith("30 frames in ")
    assert f"{source} through bright regions on NumPy" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "987"], "there is no camera /dev/video987; found: "),
        (["--camera", "{folder}/text.mp4"], "must be a video or an image"),
        (["--camera", "{folder}/empty"], "must hold images"),
        (["--camera", "{folder}/none"], "does not exist"),
        (["--camera", "{folder}/a.mp4", "--classes", "zebra"], "the model has no class zebra: it knows small, large"),
        (["--camera", "{folder}/a.mp4", "--model", "{folder}/none"], "run python training/train.py"),
        (["--camera", "{folder}/a.mp4", "--video", "{folder}/none/o.mp4"], "--video must be in a folder that exists"),
        (["--camera", "{folder}/a.mp4", "--line", "gate=1,2,3"], "--line must be NAME=x1,y1,x2,y2"),
        (["--camera", "{folder}/a.mp4", "--line", "gate@yard=0,0,1,1"], "gate must be for one of the cameras"),
        (["--camera", "{folder}/a.mp4", "--camera", "{folder}/a.mp4"], "must have a name of its own"),
        (["--camera", "{folder}/a.mp4", "--web", "here"], "--web must be PORT or HOST:PORT"),
        (["--camera", "{folder}/a.mp4", "--web", "0.0.0.0:0"], "token"),
        (["--camera", "{folder}/a.mp4", "--segment-seconds", "9"], "--segment-seconds says how --video is written"),
        (["--camera", "{folder}/a.mp4", "--jsonl", "{folder}/o", "--keep-gb", "9"], "--keep-gb says how --rotate-mb, --video or"),
        (["--camera", "{folder}/a.mp4", "--mqtt-ca", "{folder}/a.mp4"], "--mqtt-ca says how --mqtt is written"),
        (["--camera", "{folder}/a.mp4", "--webhook-token-file", "x"], "--webhook-token-file says how --webhook is written"),
        (["--camera", "{folder}/a.mp4", "--web-token-file", "x"], "--web-token-file says how --web is written"),
        (["--camera", "{folder}/a.mp4", "--size", "big"], "argument --size: must be WxH in pixels"),
        (["--camera", "{folder}/a.mp4", "--web", "rtsp://me:hunter2@cam"], "got rtsp://cam"),
        (["--camera", "{folder}/a.mp4", "--config", "{folder}/none.toml"], "--config must be a readable TOML file"),
        (["--camera", "rtsp://${{NO_SUCH_NAME}}@cam/1"], "${{NO_SUCH_NAME}} must be in the environment"),
    ],
)
def test_each_mistake_is_one_line_and_code_2(tmp_path, model, arguments, message):
    write_video(tmp_path / "a.mp4", 3)
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    (tmp_path / "empty").mkdir()
    run = run_program(PROGRAM, "--model", model, *(argument.format(folder=tmp_path) for argument in arguments))
    assert run.returncode == 2
    errors = [line for line in run.stderr.splitlines() if " through " not in line and "no display" not in line]
    assert len(errors) == 1, run.stderr
    assert errors[0].startswith("error: ")
    assert message.replace("{{", "{").replace("}}", "}") in errors[0]


def test_what_could_not_be_written_is_one_line_and_code_1_at_the_end(tmp_path, model):
    write_video(tmp_path / "a.mp4", 3)
    outputs = "--jsonl", "/dev/full", "--csv", tmp_path / "o.csv"
    run = run_program(PROGRAM, "--model", model, "--camera", tmp_path / "a.mp4", *outputs)
    assert run.returncode == 1
    assert "error: jsonl: 3 frames could not be written: cannot write /dev/full (No space left on device)" in run.stderr
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1 + 3  # the other sink has all of them


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--threshold", "1.5"), ("--threshold", "x"), ("--frames", "0"), ("--fps", "0"), ("--fps", "nan"), ("--classes", "a,,b")],
)
def test_a_wrong_value_is_refused_by_its_flag(flag, value):
    run = run_program(STREAM, flag, value)
    assert run.returncode == 2
    assert f"argument {flag}: must be" in run.stderr


def test_a_video_that_breaks_off_is_streamed_to_there(tmp_path, model):
    source = write_video(tmp_path / "a.mp4", 100)
    source.write_bytes(source.read_bytes()[: source.stat().st_size * 3 // 4])
    run = run_program(PROGRAM, "--camera", source, "--model", model, "--jsonl", tmp_path / "o.jsonl")
    count = len((tmp_path / "o.jsonl").read_text().splitlines())
    assert run.returncode == 2
    assert f"{count} frames in " in run.stdout  # the summary comes all the same
    assert f"promises 100 frames, 4.0 s, {count} decoded" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_readable_files(tmp_path, model, number):
    source = write_video(tmp_path / "a.mp4", 500)
    command = [sys.executable, PROGRAM, "--pause", "0.02", "--camera", source, "--model", model]
    outputs = ["--video", tmp_path / "o.mp4", "--jsonl", tmp_path / "o.jsonl"]
    with subprocess.Popen([*command, *outputs], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "o.jsonl").is_file() or len((tmp_path / "o.jsonl").read_bytes().splitlines()) < 20:  # well under way
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "error: interrupted"
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert 0 < len(lines) < 500
    assert count_frames(tmp_path / "o.mp4") == len(lines)
    assert stdout.startswith(f"{len(lines)} frames in ")


def test_help_loads_nothing_heavy():
    program = (
        "import runpy, sys\n"
        f"sys.argv = [{str(STREAM)!r}, '-h']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'tensorrt', 'onnx', 'onnxruntime', 'openvino', 'cv2', 'av'} & set(sys.modules)\n"
        "print(code, sorted(heavy))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-1] == "0 []"
    assert "--camera" in run.stdout
