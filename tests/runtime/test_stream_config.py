import pytest

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.runtime.stream_arguments import stream_parser
from retinanet_edge.runtime.stream_config import config_text, with_config
from retinanet_edge.runtime.stream_options import options_from


def parsed(*typed):
    parser = stream_parser("")
    return parser.parse_args(with_config(parser, typed))


def config(tmp_path, text):
    path = tmp_path / "stream.toml"
    path.write_text(text)
    return f"--config={path}"


def printed(*typed):
    parser = stream_parser("")
    return config_text(parser, with_config(parser, typed))


def test_keys_are_flags(tmp_path):
    file = config(tmp_path, """
camera = ["front=rtsp://cam1/main", "demo"]
threshold = 0.4
classes = ["car", "person"]
class-threshold = {car = 0.6, person = 0.3}
size = "1280x720"
track = true
loop = false
jsonl = "out.jsonl"
""")  # fmt: skip
    typed = parsed(
        "--camera", "front=rtsp://cam1/main", "--camera", "demo", "--threshold", "0.4", "--classes", "car,person", "--class-threshold",
        "car=0.6,person=0.3", "--size", "1280x720", "--track", "--jsonl", "out.jsonl",
    )  # fmt: skip
    read = parsed(file)
    assert read.config is not None
    assert {**vars(read), "config": None} == vars(typed)


def test_what_is_typed_wins_also_over_lists(tmp_path):
    file = config(tmp_path, 'camera = ["a.mp4", "b.mp4"]\nthreshold = 0.4\n')
    read = parsed(file, "--camera", "demo", "--threshold=0.7")
    assert (read.camera, read.threshold) == (["demo"], 0.7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("treshold = 0.4", "treshold is no setting, is threshold meant"),
        ("config = 'other.toml'", "config is no setting"),
        ("track = 1", "track must be true or false, got 1"),
        ("camera = [[1]]", r"camera must be text or a number, got \[1\]"),
        (r'jsonl = "a\u0000b"', "jsonl must be text or a number, got"),
        ("threshold = ", "must be TOML, got an error"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, message):
    with pytest.raises(UserInputError, match=message) as caught:
        parsed(config(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserInputError, match="No such file"):
        parsed(f"--config={tmp_path / 'none.toml'}")


def test_a_wrong_value_is_refused_as_the_flags_is(tmp_path):
    messages = []
    for given in ("--threshold=1.5", config(tmp_path, "threshold = 1.5")):
        with pytest.raises(UserInputError, match=r"--threshold: must be a number, at least 0 and at most 1, got 1\.5") as caught:
            parsed(given)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("typed", [
    ["rtsp://me:hunter2@cam/1"], ["--size", "rtsp://me:hunter2@cam/1"], ["--config=x.toml", "--none=rtsp://me:hunter2@cam/1"], ["--config"],
])  # fmt: skip
def test_a_wrong_command_line_ends_nothing_and_shows_no_password(tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("")
    with pytest.raises(UserInputError, match=r"run stream\.py -h") as caught:
        parsed(*typed)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1.10", "007", "1e3", "0", "12.5", "99999999999999999999", "0.00001", "-1"])
def test_text_that_looks_like_a_number_stays_as_it_is(tmp_path, text):
    typed = ("--classes", text, "--camera", text)
    read = parsed(config(tmp_path, printed(*typed)))
    assert (read.classes, read.camera) == ((text,), [text])


def test_the_printed_file_means_the_same(tmp_path):
    typed = ("--camera", 'yard="odd"=x.mp4', "--camera", "rtsp://${USER}:${PASSWORD}@cam/1", "--threshold", "0.4", "--no-window",
             "--line", "gate=0,0.5,1,0.5", "--class-threshold", "car=0.6", "--size", "1280x720")  # fmt: skip
    text = printed(*typed)
    assert {**vars(parsed(config(tmp_path, text))), "config": None} == vars(parsed(*typed))
    assert '\nthreshold = 0.4\n' in text
    assert "\n# loop = false\n" in text
    assert printed(config(tmp_path, text)) == text


def test_a_password_is_not_printed():
    text = printed("--camera", "rtsp://admin:hunter2@cam/1", "--mqtt", "mqtt://me:secret9@broker/t")
    assert "hunter2" not in text
    assert "secret9" not in text
    assert text.count("is left out") == 2


def test_names_of_the_environment_are_filled_in():
    arguments = parsed("--camera", "rtsp://u:${CAM_PASSWORD}@cam/1", "--mqtt", "mqtt://${WHO}@broker/t")
    options = options_from(arguments, {"CAM_PASSWORD": "pw", "WHO": "me"})
    assert options.cameras == ("rtsp://u:pw@cam/1",)
    assert options.outputs.mqtt == "mqtt://me@broker/t"
    with pytest.raises(UserInputError, match=r"\$\{CAM_PASSWORD\} must be in the environment"):
        options_from(arguments, {})
