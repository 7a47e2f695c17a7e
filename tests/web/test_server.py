"""The page as programs see it: answers, messages, many at once, and nothing that it should not give away."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from known_scenes import SCORES, scenes
from PIL import Image

from lightbed.errors import UserError
from lightbed.web.server import free_port, serving
from lightbed.web.site import Site


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def left_over(address: str, client: Client) -> list[str]:
    """Names of files in the page's own folder."""
    folder = Path(client.predict(api_name="/runs") and _folder(address))
    return [str(file) for file in folder.rglob("*") if file.is_file()]


def _folder(address: str) -> str:
    """Where a page keeps uploads while it reads them; an upload tells."""
    files = {"files": ("x.png", b"x")}
    path = httpx.post(f"{address}/gradio_api/upload", files=files).json()[0]
    Path(path).unlink()
    return str(Path(path).parents[2])


def test_a_program_is_told_what_a_run_sees(client, scene):
    told = client.predict(handle_file(str(scene)), "scenes", 0.9, api_name="/predict")
    target = scenes(1)[0][1]
    assert (told["run"], told["height"], told["width"]) == ("scenes", 128, 128)
    assert [one["label"] for one in told["objects"]] == [str(int(label)) for label in target["labels"][:2]]
    assert told["objects"][0]["box"] == pytest.approx((target["boxes"][0] * 2).tolist())
    told = client.predict(handle_file(str(scene)), run="scenes", threshold=0.0, api_name="/predict")
    assert len(told["objects"]) == len(target["labels"])
    assert len(client.predict(handle_file(str(scene)), "digits", 0.9, api_name="/predict")["scores"]) == 10
    runs = client.predict(api_name="/runs")
    assert [(one["run"], one["kinds"][0]) for one in runs] == [
        ("scenes", "detection"),
        ("bright", "pixels"),
        ("digits", "classification"),
    ]


def test_its_endpoints_are_the_documented_ones(client):
    described = client.view_api(print_info=False, return_format="dict")
    assert set(described["named_endpoints"]) == {"/predict", "/runs"}
    parameters = described["named_endpoints"]["/predict"]["parameters"]
    assert [one["parameter_name"] for one in parameters] == ["image", "run", "threshold"]


@pytest.mark.parametrize(
    ("content", "run", "threshold", "told"),
    [
        (b"hello", "scenes", 0.9, "photo.png is no image that the page reads"),
        (b"\x89PNG\r\n\x1a\n", "scenes", 0.9, "photo.png"),
        (None, "scene", 0.9, "run=scene is not served: there is scenes, bright, digits"),
        (None, "scenes", 7, "threshold=7 must lie in 0..1"),
    ],
)
def test_wrong_input_is_told_and_the_next_request_is_answered(content, run, threshold, told, client, scene, tmp_path):
    file = scene if content is None else tmp_path / "photo.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AppError, match=told):
        client.predict(handle_file(str(file)), run, threshold, api_name="/predict")
    assert client.predict(handle_file(str(scene)), "scenes", 0.9, api_name="/predict")["objects"]


@pytest.mark.slow
def test_fifty_at_once_are_all_answered_and_nothing_is_left(address, client, scene, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(scene.read_bytes()[:200])

    def ask(number: int) -> str:
        if number % 10 == 9:
            with pytest.raises(AppError, match="broken"):
                client.predict(handle_file(str(broken)), "scenes", 0.9, api_name="/predict")
            return "refused"
        name = ("scenes", "bright", "digits")[number % 3]
        return client.predict(handle_file(str(scene)), name, 0.9, api_name="/predict")["run"]

    with ThreadPoolExecutor(50) as pool:
        told = list(pool.map(ask, range(50)))
    expected = ["refused" if i % 10 == 9 else ("scenes", "bright", "digits")[i % 3] for i in range(50)]
    assert told == expected
    assert not left_over(address, client)


def test_too_large_a_file_is_refused_as_it_arrives(address, client, tmp_path):
    files = {"files": ("big.png", bytes(3 * 2**20))}
    reply = httpx.post(f"{address}/gradio_api/upload", files=files)
    assert reply.status_code == 413
    assert "maximum allowed size" in reply.text
    assert not left_over(address, client)


PATHS = ("/etc/passwd", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "http://127.0.0.1:1/x", "{mine}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("route", ["gradio_api/file=", "file=", "gradio_api/file/", "gradio_api/proxy=", "static/"])
def test_no_file_is_given_away(path, route, address, tmp_path):
    (tmp_path / "mine.txt").write_text("a secret")
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as line:  # sent as it stands
        target = f"/{route}{path.format(mine=tmp_path / 'mine.txt')}"
        line.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        reply = b"".join(iter(lambda: line.recv(65536), b""))
    assert reply.split()[1] in (b"403", b"404"), reply[:200]
    assert b"root:" not in reply
    assert b"a secret" not in reply


def test_what_was_sent_cannot_be_fetched_by_others(address):
    path = httpx.post(f"{address}/gradio_api/upload", files={"files": ("x.html", b"<script>1</script>")}).json()[0]
    try:
        reply = httpx.get(f"{address}/gradio_api/file={path}")
        assert reply.headers["content-type"] == "image/png"
        assert b"script" not in reply.content
    finally:
        Path(path).unlink()


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:9/x.png", "{upload}/../../../../../../etc/passwd"])
def test_no_path_of_the_server_is_taken_for_an_upload(path, address):
    upload = _folder(address)
    data = [{"path": path.format(upload=upload), "meta": {"_type": "gradio.FileData"}}, "scenes", 0.9]
    event = httpx.post(f"{address}/gradio_api/call/predict", json={"data": data}).json()["event_id"]
    reply = httpx.get(f"{address}/gradio_api/call/predict/{event}", timeout=30).text
    assert "event: error" in reply
    assert "root:" not in reply


def test_the_browser_is_told_to_call_no_other_host(address):
    headers = httpx.get(address).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_a_taken_port_gives_way_to_the_next(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) <= port + 100
    assert free_port(0) > 0


def test_no_free_port_is_told():
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", 65535))
            taken.listen()
        except OSError:  # somebody else has it: just as well
            pass
        with pytest.raises(UserError, match="port=65535"):
            free_port(65535)


def test_what_is_sent_is_kept_only_where_it_is_asked_for(detector, scene, tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    with serving(Site([detector], port=0, folder=folder)) as address:
        client = Client(address, verbose=False)
        before = Path(_folder(address))
        assert before.is_dir()
        for _ in range(2):
            client.predict(handle_file(str(scene)), "scenes", 0.9, api_name="/predict")
        other = tmp_path / "other" / scene.name
        other.parent.mkdir()
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(other)
        client.predict(handle_file(str(other)), "scenes", 0.9, api_name="/predict")
    assert not before.exists(), "at the end everything else is gone"
    lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == ["scene.png", "scene.png", "1_scene.png"]
    assert (folder / "images" / "scene.png").read_bytes() == scene.read_bytes()
    assert (folder / "images" / "1_scene.png").read_bytes() == other.read_bytes()
    assert len(lines[0]["objects"]) == sum(score >= 0.9 for score in SCORES)
