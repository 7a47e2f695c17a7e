"""Downloads from a server on the loopback: right, wrong, cut short, absent."""

import hashlib
import http.server
import io
import socket
import threading
import zipfile

import pytest

from lightbed.data.download import File, fetch, unpack
from lightbed.errors import UserError

CONTENT = bytes(range(256)) * 64
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Answers(http.server.BaseHTTPRequestHandler):
    """/good gives the content, /short half of what it promises, all else 404."""

    def do_GET(self):
        if not self.path.startswith(("/good", "/short")):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path.startswith("/good") else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def fails(file, folder, message):
    with pytest.raises(UserError, match=message) as caught:
        fetch(file, folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("cannot download a.bin (")
    assert str(caught.value).endswith(f"; put it into {folder} or set paths.data to where the data is")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("checksum", [MD5, SHA256])
def test_the_right_sum(server, tmp_path, checksum):
    path = fetch(File("a.bin", checksum, [f"{server}/good"]), tmp_path / "new" / "folder")
    assert path.read_bytes() == CONTENT
    assert [child.name for child in path.parent.iterdir()] == ["a.bin"]


def test_a_file_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert fetch(File("a.bin", MD5, ["http://127.0.0.1:1/none"]), tmp_path) == tmp_path / "a.bin"


def test_a_damaged_file_is_fetched_again(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1])
    assert fetch(File("a.bin", MD5, [f"{server}/good"]), tmp_path).read_bytes() == CONTENT


def test_the_first_address_that_is_good_serves(server, tmp_path):
    urls = [f"{server}/none", f"{server}/short", f"{server}/good"]
    assert fetch(File("a.bin", MD5, urls), tmp_path).read_bytes() == CONTENT


def test_a_wrong_sum(server, tmp_path):
    fails(File("a.bin", "0" * 32, [f"{server}/good"]), tmp_path, f"/good has MD5 {MD5}, not 0000")
    fails(File("a.bin", "0" * 64, [f"{server}/good"]), tmp_path, f"/good has SHA-256 {SHA256}, not 0000")


def test_not_found(server, tmp_path):
    fails(File("a.bin", MD5, [f"{server}/none"]), tmp_path, "/none answers 404 Not Found")


def test_cut_short(server, tmp_path):
    fails(File("a.bin", MD5, [f"{server}/short"]), tmp_path, r"/short broke off after 8,192 of 16,384 bytes")


def test_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens here
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin"
        fails(File("a.bin", MD5, [url]), tmp_path, f"{url}: Connection refused")


def test_no_network(tmp_path):
    fails(File("a.bin", MD5, ["http://nowhere.invalid/a.bin"]), tmp_path, r"http://nowhere\.invalid/a\.bin: \w+")


def test_no_address(tmp_path):
    fails(File("a.bin", MD5, ["nowhere/a.bin"]), tmp_path, "unknown url type: 'nowhere/a.bin'")


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*/a\.bin: .*; set paths\.data to a folder of yours"):
        fetch(File("a.bin", MD5, [f"{server}/good"]), tmp_path / "file")


def test_unpacking_is_whole_or_not_at_all(tmp_path):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("horses/a.txt", "a" * 5000)
    (tmp_path / "a.zip").write_bytes(whole.getvalue())
    unpack(tmp_path / "a.zip", tmp_path / "train")
    assert (tmp_path / "train" / "horses" / "a.txt").read_text() == "a" * 5000
    (tmp_path / "b.zip").write_bytes(whole.getvalue()[:-30])
    with pytest.raises(UserError, match=r"cannot unpack .*b\.zip into .*/other: "):
        unpack(tmp_path / "b.zip", tmp_path / "other")
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.zip", "b.zip", "train"]
