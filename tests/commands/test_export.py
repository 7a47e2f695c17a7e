"""Exported programs predict what the checkpoint does, in a process that knows nothing of Lightbed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightbed.cli import main
from lightbed.commands.export import input_size
from lightbed.errors import UserError
from lightbed.programs import difference, made_up, program_of
from lightbed.runs.load import load_run
from lightbed.transforms.preprocess import Preprocess

QUICK = ["trainer=debug", "trainer.accelerator=cpu", "threads=1", "callbacks.pictures=null", "callbacks.layers=null"]
SCENES = ["data.images={train:6,val:4,test:4}", "data.batch_size=2"]
LIGHT = ["model.backbone=mobilenet_v3_small", "model.pyramid_channels=64", "model.levels=[1,2]"]
TASKS = {
    "one box": ["data=one_digit", "data.images={train:8,val:4,test:4}", "task=localizer", "model=cnn",
                "model.channels=[4]", "task.hidden=8"],
    "pixels": ["data=digit_scenes", "data.image_size=[48,64]", *SCENES, "model=unet", "model.channels=[4,8]"],
    "boxes": ["data=digit_scenes", *SCENES, "model=fcos", *LIGHT, "model.strides=[8,16,32,64]", "model.num_convs=1"],
    "instances": ["data=digit_scenes", *SCENES, "model=mask_rcnn", *LIGHT, "model.anchor_sizes=[[12],[24],[48]]",
                  "model.representation_size=16", "model.box_detections_per_img=10",
                  "model.rpn_post_nms_top_n_test=20"],
}  # fmt: skip

ALONE = """
import sys
import numpy as np
file, images, found = sys.argv[1:]
if file.endswith(".onnx"):
    import onnxruntime
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.save(found, session.run(None, {session.get_inputs()[0].name: np.load(images)})[0])
else:
    import torch
    np.save(found, torch.export.load(file).module()(torch.from_numpy(np.load(images)))[0].detach().numpy())
assert not any(name.startswith("lightbed") for name in sys.modules)
"""


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_an_exported_classifier_gives_the_scores_of_predict(kind: str, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = made_up((5, 1, 8, 8), 7).numpy()
    for i, image in enumerate(pixels):
        Image.fromarray(image[0]).save(tmp_path / "photos" / f"{i}.png")
    folder = tmp_path / "out"
    assert main(["export", f"run={digits_run}", f"format={kind}", f"hydra.run.dir={folder}"]) == 0
    told = json.loads((folder / "export.json").read_text())
    assert told["classes"] == [str(digit) for digit in range(10)]
    assert told["input"] == {
        "name": "images", "dtype": "uint8", "shape": ["N", 1, 8, 8], "values": "grey, 0..255", "resize": "stretch",
    }  # fmt: skip
    assert told["compared"]["largest_difference"] <= (1e-5 if kind == "onnx" else 0)
    assert json.loads((folder / "run.json").read_text())["status"] == "done"
    np.save(tmp_path / "images.npy", pixels)
    file = folder / ("model.onnx" if kind == "onnx" else "model.pt2")
    places = [str(file), str(tmp_path / "images.npy"), str(tmp_path / "found.npy")]
    subprocess.run([sys.executable, "-P", "-c", ALONE, *places], check=True, cwd=tmp_path)
    words = [f"run={digits_run}", f"source={tmp_path / 'photos'}", f"hydra.run.dir={tmp_path / 'seen'}", "device=cpu"]
    assert main(["predict", *words, "pictures=false"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "seen" / "predictions.jsonl").read_text().splitlines()]
    expected = np.array([list(line["scores"].values()) for line in lines], np.float32)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_exported_with_its_outputs(task: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    assert main(["train", *QUICK, *TASKS[task], f"hydra.run.dir={run}", f"paths.outputs={tmp_path}"]) == 0
    assert main(["export", f"run={run}", f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    told = json.loads((tmp_path / "out" / "export.json").read_text())
    names = {"one box": ["scores", "boxes"], "pixels": ["masks"], "boxes": ["boxes", "labels", "scores"],
             "instances": ["boxes", "labels", "scores", "masks"]}  # fmt: skip
    assert told["outputs"] == names[task]
    assert told["compared"]["largest_difference"] <= 1e-3
    loaded = load_run(run).task
    program = program_of(loaded).eval()
    shape = [2 if side == "N" else side for side in told["input"]["shape"]]
    images = made_up(tuple(shape), 3)
    with torch.no_grad():
        found = dict(zip(program.names, program(images), strict=True))
        seen = loaded.predict(loaded.preprocess(images if program.batched else images[None]))
    for name, value in found.items():
        key = {"masks": "mask", "boxes": "box"}.get(name, name) if program.batched else name
        expected = torch.stack([one[key] for one in seen]) if program.batched else seen[0][key]
        assert torch.equal(value, expected), name
    if not program.batched:
        assert main(["export", f"run={run}", "format=torch", f"paths.outputs={tmp_path}"]) == 2
        assert "format=torch is not for detectors" in capsys.readouterr().err


def test_what_cannot_be_exported_is_told(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [f"run={digits_run}", f"paths.outputs={tmp_path}"]
    for more, told in [
        (["format=tflite"], "format=tflite is not known"),
        (["size=[0,8]"], "size=[0, 8] must be one positive number, or two"),
        (["run=nowhere"], "run=nowhere does not exist"),
    ]:
        assert main(["export", *words, *more]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "export").exists()
    assert main(["export", *words, "size=[12,20]", "format=torch"]) == 0
    (told,) = tmp_path.glob("export/*/export.json")
    assert json.loads(told.read_text())["input"]["shape"] == ["N", 1, 12, 20]
    loaded = load_run(digits_run)
    loaded.task.preprocess = Preprocess(1)
    with pytest.raises(UserError, match=r"took images of any size, so give size=\[height,width\]"):
        input_size(None, loaded)
    assert input_size(9, loaded) == (9, 9)


def test_a_network_whose_steps_depend_on_what_it_sees_is_refused(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """One by torch itself, one by the comparison, which finds what no tracer does."""
    loaded = load_run(digits_run)
    first, plain = type(loaded.task.model), type(loaded.task.model).forward
    monkeypatch.setattr(first, "forward", lambda self, x: plain(self, x) if x.sum() > 0 else -plain(self, x))
    assert main(["export", f"run={digits_run}", "format=torch", f"paths.outputs={tmp_path}"]) == 2
    assert "its network cannot be exported as torch: " in capsys.readouterr().err
    monkeypatch.setattr(first, "forward", lambda self, x: plain(self, x) + torch.rand(10).cumsum(0))
    assert main(["export", f"run={digits_run}", "format=torch", f"paths.outputs={tmp_path}"]) == 1
    assert "differs from the checkpoint by " in capsys.readouterr().err
    assert not list(tmp_path.rglob("model.pt2"))


def test_detections_are_compared_whatever_their_order(digits_run: Path) -> None:
    program = program_of(load_run(digits_run).task)
    program.names, program.batched = ("boxes", "labels", "scores"), False
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [5, 5, 20, 20]]), torch.tensor([1, 0])
    scores = torch.tensor([0.5, 0.5])
    other = (boxes.flip(0), labels.flip(0), scores)
    assert difference(program, (boxes, labels, scores), other) == 0
    assert difference(program, (boxes, labels, scores), (boxes + 2, labels, scores)) == pytest.approx(0.1)
    assert difference(program, (boxes, labels, scores), (boxes, labels, scores - 0.25)) == 0.25
    assert difference(program, (boxes, labels, scores), (boxes, labels.flip(0), scores)) > 0.2
    assert difference(program, (boxes, labels, scores), (boxes[:1], labels[:1], scores[:1])) == float("inf")
    assert difference(program, (boxes, labels, scores), (boxes, labels + 5, scores)) == float("inf")
