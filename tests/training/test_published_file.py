import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from retinanet_edge.runtime.errors import UserInputError
from retinanet_edge.training.published_file import read_published


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of torch.hub's files, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def publish(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Call this with a hash, or "" for the right one, to have a file of one tensor served; returns its address."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *_: Any) -> None: ...

    def put(sha256: str) -> str:
        (tmp_path / "served").mkdir()
        torch.save({"a": torch.arange(3)}, tmp_path / "new.pth")
        name = f"net-{sha256 or hashlib.sha256((tmp_path / 'new.pth').read_bytes()).hexdigest()[:8]}.pth"
        (tmp_path / "new.pth").rename(tmp_path / "served" / name)
        return f"http://127.0.0.1:{server.server_port}/{name}"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield put
    with contextlib.suppress(OSError):
        server.shutdown()
    server.server_close()


def test_a_published_file_is_fetched_once(publish: Callable[[str], str], cache: Path, tmp_path: Path) -> None:
    url = publish("")
    assert read_published(url)["a"].tolist() == [0, 1, 2]
    (tmp_path / "served" / url.rpartition("/")[2]).unlink()
    assert read_published(url)["a"].tolist() == [0, 1, 2]
    assert [file.name for file in cache.iterdir()] == [url.rpartition("/")[2]]


def test_a_file_of_another_hash_is_refused(publish: Callable[[str], str], cache: Path) -> None:
    url = publish("01234567")
    with pytest.raises(UserInputError, match="invalid hash value"):
        read_published(url)
    cache.joinpath(url.rpartition("/")[2]).write_bytes(b"half a file")
    with pytest.raises(UserInputError, match=r"net-01234567\.pth must have a SHA-256 that begins with 01234567: remove it"):
        read_published(url)


def test_without_network_it_says_where_to_bring_the_file(cache: Path) -> None:
    with pytest.raises(UserInputError, match="bring it as ") as caught:
        read_published("http://127.0.0.1:9/net-01234567.pth")
    assert str(cache / "net-01234567.pth") in str(caught.value)
    assert "\n" not in str(caught.value)
