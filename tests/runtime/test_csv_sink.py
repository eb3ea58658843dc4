import csv

from retinanet_edge.runtime.csv_sink import COLUMNS, CsvSink
from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.rotation import Rotation, finished_files
from retinanet_edge.runtime.sink import FrameResult
from tests.runtime.stream_results import result_of, two_found, written


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_is_a_detection(tmp_path):
    path = tmp_path / "a.csv"
    results = [result_of(3, found=two_found(), tracks=[7, -1]), result_of(4), result_of(5, found=two_found()[:1], unix_s=0)]
    written(CsvSink(path), results)
    assert path.read_text().splitlines() == [
        "camera,utc,frame,time_s,class,score,x1,y1,x2,y2,track",
        "front,2026-11-21T14:01:02.123Z,3,0.12,dog,0.9877,1.23,2.00,30.00,40.57,7",
        "front,2026-11-21T14:01:02.123Z,3,0.12,cat,0.5000,5.00,6.00,17.00,18.00,",
        "front,,5,0.2,dog,0.9877,1.23,2.00,30.00,40.57,",
    ]


def test_names_with_commas_and_quotes_come_back(tmp_path):
    path, names = tmp_path / "a.csv", ("a, b", 'say "x"\nor y')
    result = result_of(found=two_found(), camera='yard, "left"')
    written(CsvSink(path), [FrameResult(result.frame, result.detections, names, 1.0)])
    assert [(row["camera"], row["class"]) for row in rows(path)] == [('yard, "left"', names[1]), ('yard, "left"', names[0])]


def test_each_file_has_the_header_and_whole_frames(tmp_path):
    path = tmp_path / "a.csv"
    written(CsvSink(path, Rotation(max_size=1)), [result_of(index, found=two_found()) for index in range(3)])
    files = [*finished_files(path), path]
    assert [[row["frame"] for row in rows(file)] for file in files] == [["0", "0"], ["1", "1"], ["2", "2"]]
    assert all(file.read_text().startswith(",".join(COLUMNS) + "\n") for file in files)


def test_nothing_found_no_file(tmp_path):
    written(CsvSink(tmp_path / "a.csv"), [result_of(found=Detections.empty())])
    assert list(tmp_path.iterdir()) == []
