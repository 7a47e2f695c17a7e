"""`lightbed predict`: the test's own scores for image files, written, drawn and told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightbed.cli import main
from lightbed.commands.predict import Seen, describe, find_images, picture_names
from lightbed.data.digits import Digits
from lightbed.errors import UserError
from lightbed.runs.load import load_run
from lightbed.types import Prediction


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' test split as PNG files, in its own order."""
    folder = tmp_path_factory.mktemp("photos")
    data = Digits()
    data.setup()
    for i in range(len(data.splits["test"])):
        Image.fromarray(data.splits["test"][i][0][0].numpy()).save(folder / f"{i:03}.png")
    return folder


def predict(folder: Path, *words: str) -> list[dict]:
    assert main(["predict", f"hydra.run.dir={folder}", "device=cpu", *words]) == 0
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def refused(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert main(["predict", "device=cpu", *words]) == 2
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    return message


def test_predictions_are_what_the_test_computes(
    digits_run: Path, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = predict(tmp_path / "run", f"run={digits_run}", f"source={photos}", "pictures=false")
    task = load_run(digits_run).task
    data = Digits(mean=task.preprocess.mean, std=task.preprocess.std, eval_batch_size=256)
    data.setup()
    right = done = 0
    for images, target in data.eval_loader("test"):
        with torch.no_grad():
            scores = task.model(task.preprocess(images)).softmax(1)
        for row, label in zip(scores, target["label"].tolist(), strict=True):
            line = lines[done]
            assert np.float32(list(line["scores"].values())).tolist() == row.tolist(), "to the bit"
            assert line["path"] == str(photos / f"{done:03}.png")
            assert line["label"] == str(line["index"])
            assert line["score"] == max(line["scores"].values())
            right, done = right + (line["index"] == label), done + 1
    assert len(lines) == done == 359
    assert right / done == pytest.approx(json.loads((digits_run / "metrics.json").read_text())["test/accuracy"])
    printed = capfd.readouterr().out
    assert "predictions of 359 images" in printed
    assert "349 more" in printed
    assert "predictions.jsonl" in printed
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["kind"], record["status"], record["data"]["images"]) == ("predict", "done", 359)


def test_sources_are_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b/2.JPG", "b/1.png", "a/deep/3.tif", "a/notes.txt", ".hidden.png", "z.webp", "odd,name=1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = ["a/deep/3.tif", "b/1.png", "b/2.JPG", "odd,name=1.png", "z.webp"]
    assert find_images(str(tmp_path)) == [tmp_path / name for name in names]
    assert find_images(str(tmp_path / "**" / "*.png")) == [tmp_path / "b/1.png", tmp_path / "odd,name=1.png"]
    assert find_images(str(tmp_path / "a" / "notes.txt")) == [tmp_path / "a/notes.txt"], "a file is taken as it is"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_images("~/b") == [tmp_path / "b/1.png", tmp_path / "b/2.JPG"]
    for source, said in (
        ("nowhere", "does not exist"),
        (str(tmp_path / "*.gif"), "matches no file"),
        (str(tmp_path / "a/*.t?t"), "of 1 files"),
    ):
        with pytest.raises(UserError, match=said):
            find_images(source)


def test_broken_files_are_named(digits_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    source.mkdir()
    Image.new("RGBA", (40, 30), (200, 30, 30, 128)).save(source / "good.png")
    whole = (source / "good.png").read_bytes()
    (source / "half.png").write_bytes(whole[: len(whole) // 2])
    own = [f"run={digits_run}", f"source={source}"]
    lines = predict(tmp_path / "skip", *own)
    assert [Path(line["path"]).name for line in lines] == ["good.png"]
    assert "skipped: " in (told := capfd.readouterr().out)
    assert "half.png" in told
    record = json.loads((tmp_path / "skip" / "run.json").read_text())
    assert record["data"]["skipped"] == 1
    assert "half.png" in record["data"]["skipped_files"][0]
    assert "half.png" in refused(capfd, *own, "broken=error", f"hydra.run.dir={tmp_path / 'error'}")
    assert json.loads((tmp_path / "error" / "run.json").read_text())["status"] == "failed"
    (source / "good.png").unlink()
    assert "none of its 1 images" in refused(capfd, *own, f"hydra.run.dir={tmp_path / 'none'}")


def test_what_is_wrong_is_said_in_one_line(digits_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = [f"run={digits_run}", f"paths.outputs={tmp_path}"]
    assert "does not exist" in refused(capfd, *own, f"source={tmp_path / 'nowhere'}")
    assert "threshold=2" in refused(capfd, *own, f"source={tmp_path}", "threshold=2")
    assert "source=..." in refused(capfd, *own)
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    missing = refused(
        capfd, f"run={tmp_path / 'gone.ckpt'}", f"paths.outputs={tmp_path}", f"source={tmp_path / 'one.png'}"
    )
    assert "gone.ckpt does not exist" in missing


def test_pictures_hold_the_image_at_its_own_size(digits_run: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    pixels = np.random.default_rng(0).integers(0, 256, (420, 500, 3), dtype=np.uint8)
    for name in ("a/photo.png", "b/photo.png", "b/photo.bmp"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(source / name)
    Image.new("L", (8, 8), 128).save(source / "tiny.png")
    predict(tmp_path / "run", f"run={digits_run}", f"source={source}")
    drawn = {str(p.relative_to(tmp_path / "run/pictures")) for p in (tmp_path / "run/pictures").rglob("*.png")}
    assert drawn == {"a/photo.png", "b/photo.png", "b/photo_2.png", "tiny.png"}
    with Image.open(tmp_path / "run/pictures/a/photo.png") as picture:
        image = np.asarray(picture)
    assert image.shape[1] == 500
    assert (image[-420:] == pixels).all(), "colours and size are the image's own, though the model sees 8x8 grey"
    caption = image[:-420]
    assert caption.shape[0] >= 30
    assert (caption < 128).any(), "the caption has text"
    with Image.open(tmp_path / "run/pictures/tiny.png") as tiny:
        assert tiny.size[0] == 320, "a tiny image is enlarged"


@given(
    st.lists(
        st.sampled_from(["a/x.jpg", "a/x.png", "a/X.png", "b/x.jpg", "x_2.png", "x.jpg", "x.bmp"]),
        min_size=1,
        unique=True,
    )
)
def test_picture_names_never_collide(names: list[str]) -> None:
    found = picture_names([Path(name) for name in names])
    assert len({name.lower() for name in found.values()}) == len(names)
    assert all(name.endswith(".png") and not name.startswith("/") for name in found.values())


def test_thresholds_say_what_is_called() -> None:
    one = Seen(Path("x.png"), Prediction(label=torch.tensor(1), scores=torch.tensor([0.3, 0.7])))
    assert describe(one, ["cat", "dog"], None)["label"] == "dog"
    assert describe(one, ["cat", "dog"], 0.7)["label"] == "dog", "the threshold itself is enough"
    unsure = describe(one, ["cat", "dog"], 0.8)
    assert (unsure["label"], unsure["index"], unsure["score"]) == (None, None, 0.7)
    many = Seen(
        Path("x.png"), Prediction(label=torch.tensor([True, False, True]), scores=torch.tensor([0.9, 0.4, 0.6]))
    )
    assert describe(many, ["a", "b", "c"], None)["labels"] == ["a", "c"]
    assert describe(many, ["a", "b", "c"], 0.3)["labels"] == ["a", "b", "c"]
    assert describe(many, ["a", "b", "c"], 0.95)["labels"] == []
