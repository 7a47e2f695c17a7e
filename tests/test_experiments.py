"""Every file of conf/experiment: one batch of each stage through the command line, and a head that says what it is."""

import json
import re
from pathlib import Path

import pytest
import yaml

import fakes
from lightbed.cli import conf_dir, main
from lightbed.make import locate

FILES = sorted((conf_dir() / "experiment").glob("*.yaml"))
ONE_BATCH = ["trainer.max_epochs=1", *(f"trainer.limit_{stage}_batches=1" for stage in ("train", "val", "test"))]
NEEDS = {"transfer_feature_extraction": "transfer_source", "transfer_fine_tuning": "transfer_source"}
SCENES = ["data.images={train:8,val:4,test:4}"]
TINY = {"camvid_full": ["data.image_size=[36,48]"]}  # made for a GPU
SMALL = ["data.batch_size=4", "data.eval_batch_size=4", "trainer.accelerator=cpu", "callbacks.pictures.count=4"]


@pytest.fixture(scope="module")
def drawn_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with a drawn copy of every data set that experiments read."""
    root = tmp_path_factory.mktemp("data")
    fakes.fashion_mnist(root, 400)
    for draw in (fakes.mnist, fakes.cifar10, fakes.horse_or_human, fakes.camvid, fakes.drone):
        draw(root)
    for name in ("penn_fudan", "raccoon"):
        fakes.DRAWN[name](root)
    return root


def before(experiment: str, data: Path, folder: Path) -> Path:
    """The folder of a run of one batch that another experiment begins with."""
    places = [f"paths.data={data}", f"paths.outputs={folder}", f"hydra.run.dir={folder / 'run'}"]
    assert main(["train", f"experiment={experiment}", *places, *ONE_BATCH, *SMALL, "callbacks.pictures=null"]) == 0
    return folder


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_one_batch_from_start_to_finish(file: Path, drawn_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    text = file.read_text()
    scenes = SCENES if re.search("/data: (digit_scenes|one_digit)", text) else []
    if file.stem in NEEDS:
        scenes = [f"weights={before(NEEDS[file.stem], drawn_data, tmp_path / 'before')}"]
    places = [f"paths.data={drawn_data}", f"paths.outputs={tmp_path}", f"hydra.run.dir={folder}"]
    words = [*places, *ONE_BATCH, *SMALL, *scenes, *TINY.get(file.stem, [])]
    assert main(["train", f"experiment={file.stem}", *words]) == 0
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "done"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert any(name.startswith(("test/", "val/")) for name in metrics), "nothing was evaluated"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    own = locate(config["task"]["_target_"], "task").logged
    told = {name.removeprefix("val/") for name in metrics if name.startswith("val/")}
    assert {name for name in told if not name.startswith("loss") and "/" not in name} <= {*own}, "it can be monitored"
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert list((folder / "pictures").glob("*.png"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_head_names_source_command_figure_and_time(file: Path) -> None:
    text = file.read_text()
    head = dict(re.findall(r"^# (source|command|reported|takes): (.+)$", text, re.M))
    assert head.keys() == {"source", "command", "reported", "takes"}
    assert head["command"] == f"lightbed train experiment={file.stem}"
    assert re.search(r"minute|second", head["takes"])
    assert re.search(rf"^name: {file.stem}$", text, re.M), "its runs lie in a folder of its name"
