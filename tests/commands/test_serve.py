"""`lightbed serve`: which networks it shows, what it refuses, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import yaml
from gradio_client import Client, handle_file
from PIL import Image

from lightbed.cli import main
from lightbed.commands.serve import load_all, titles
from lightbed.models.rcnn import MaskRCNN
from lightbed.web.server import free_port

CONF = Path(__file__).parents[2] / "conf"
SMALL = {
    "backbone": "resnet18",
    "pyramid_channels": 16,
    "representation_size": 16,
    "mask_layers": [8],
    "mask_dim_reduced": 8,
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_test": 20,
    "min_size": 64,
}


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert main(["serve", *words]) == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    return message


def visited(words: list[str], visit: Callable[[str], None]) -> int:
    """Run the command until `visit`, which gets the page's address, has been there; returns its exit code."""
    port, ended = free_port(0), threading.Event()
    faults: list[BaseException] = []

    def go() -> None:
        address = f"http://127.0.0.1:{port}"
        try:
            while not ended.wait(0.2):
                try:
                    httpx.get(address, timeout=60)
                    break
                except httpx.TransportError:
                    continue
            if not ended.is_set():
                visit(address)
        except BaseException as error:
            faults.append(error)
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    visitor = threading.Thread(target=go)
    visitor.start()
    try:
        code = main(["serve", f"port={port}", "device=cpu", *words])
    finally:
        ended.set()
        visitor.join()
    for fault in faults:
        raise fault
    return code


def test_wrong_lines_are_told_in_one(capfd, tmp_path):
    outputs = f"paths.outputs={tmp_path}"
    assert "give run=RUN" in refused(capfd, outputs)
    assert "run=nowhere does not exist" in refused(capfd, outputs, "run=nowhere")
    for word in ("threshold=1.5", "threshold=null", "port=70000", "examples=-1", "queue=0", "upload_megapixels=500"):
        assert word in refused(capfd, outputs, "run=nowhere", word)
    assert "a model without a run needs a detector's trained weights" in refused(capfd, outputs, "model=unet")
    assert "model=mask_rcnn_coco" in refused(capfd, outputs, "model=resnet18", "model.weights=null")
    assert not list(tmp_path.iterdir()), "no folder is left"


def test_trained_weights_that_cannot_be_reached_are_told_in_one_line(capfd, tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    message = refused(capfd, "model=mask_rcnn_coco", f"paths.outputs={tmp_path / 'outputs'}")
    assert "maskrcnn_resnet50_fpn_coco" in message
    assert "cannot be reached" in message
    assert message.endswith(", or give model.weights=FILE")


def test_a_file_of_weights_is_served_without_any_run(tmp_path, capfd):
    own = yaml.safe_load((CONF / "model" / "mask_rcnn_coco.yaml").read_text())
    options = {key: value for key, value in own.items() if key not in ("defaults", "weights")} | SMALL
    torch.manual_seed(0)
    network = MaskRCNN(90, 3, **{**options, "box_batch_size_per_image": 8}, box_score_thresh=0.0)
    torch.save(network.state_dict(), tmp_path / "coco.pth")
    Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(tmp_path / "x.png")
    found = {}

    def visit(address: str) -> None:
        client = Client(address, verbose=False)
        found["runs"] = client.predict(api_name="/runs")
        found["told"] = client.predict(handle_file(str(tmp_path / "x.png")), "mask_rcnn_coco", 0.0, api_name="/predict")

    words = [f"model.{key}={value}".replace(" ", "") for key, value in SMALL.items()]
    weights = f"model.weights={tmp_path / 'coco.pth'}"
    outputs = [f"paths.outputs={tmp_path / 'outputs'}", f"hydra.run.dir={tmp_path / 'kept'}", "save=true"]
    line = ["model=mask_rcnn_coco", weights, *words, "model.box_score_thresh=0.0", *outputs]
    assert visited(line, visit) == 0
    [run] = found["runs"]
    assert run["kinds"] == ["detection", "instances", "pixels"]
    assert (run["classes"][0], run["classes"][17], len(run["classes"])) == ("person", "dog", 90)
    assert (found["told"]["height"], found["told"]["width"]) == (48, 64)
    assert all(one["label"] in run["classes"] and one["segmentation"] for one in found["told"]["objects"])
    assert (tmp_path / "kept" / "images" / "x.png").read_bytes() == (tmp_path / "x.png").read_bytes()
    assert len((tmp_path / "kept" / "answers.jsonl").read_text().splitlines()) == 1
    assert '"status": "done"' in (tmp_path / "kept" / "run.json").read_text()
    assert "what is sent is kept in" in capfd.readouterr().out


def test_no_two_runs_have_one_title(digits_run):
    files = [str(digits_run), str(digits_run / "checkpoints" / "last.ckpt")] * 2
    config = {"run": files[:2], "run2": files[0], "run3": files[3], "run4": None, "trust": False}
    found = titles(load_all(config))
    assert list(found) == ["digits", "digits_2", "digits_3", "digits_4"]
    assert len(set(found.values())) == 4
    assert [title.count(".ckpt") for title in found.values()] == [1] * 4, found
    assert titles(load_all({**config, "run": files[0], "run2": None, "run3": None})) == {"digits": "digits"}


@pytest.mark.slow
def test_runs_are_served_beside_each_other_until_ctrl_c(digits_run, tmp_path):
    checkpoint = digits_run / "checkpoints" / "last.ckpt"
    code = "import sys; from lightbed.cli import main; sys.exit(main())"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = [f"run={digits_run}", f"run2={checkpoint}", f"port={port}", f"paths.outputs={tmp_path / 'outputs'}"]
        environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen([sys.executable, "-c", code, "serve", *words], stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.STDOUT, env=environment)  # fmt: skip
        try:
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if "Ctrl-C" in line:
                    break
            assert f"port {port} is taken" in "".join(lines)
            address = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])[0]
            assert address != f"http://127.0.0.1:{port}"
            runs = Client(address, verbose=False).predict(api_name="/runs")
            assert [one["run"] for one in runs] == ["digits", "digits_2"]
            assert "data:image/png;base64," in httpx.get(address, timeout=60).text, "test images to click on"
            assert list(tmp_path.glob("lightbed_page_*"))
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    assert not list(tmp_path.glob("lightbed_page_*"))
    assert not list((tmp_path / "outputs").iterdir()), "nothing is kept"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(address.rpartition(":")[2])))
