"""Two processes see what one sees: the segmenter's metrics do not depend on who counted which image."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fakes

TESTS = Path(__file__).parents[1]
# each run is a forked child of one process that has imported everything
CODE = """
import sys
import time
from pathlib import Path
from kills import finish, start

def to_the_end(running):
    while running():
        time.sleep(0.05)
    return False

folder, words = Path(sys.argv[1]), sys.argv[2:]
for processes in (1, 2):
    # as many images a step in all
    own = [f"hydra.run.dir={folder / str(processes)}", f"data.batch_size={4 // processes}"]
    finish(start([*words, *own], folder / "log", processes), to_the_end)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["data=camvid", "data.image_size=[24,32]", "data.eval_batch_size=1", "trainer.max_epochs=0"],
        ["data=camvid", "data.image_size=[24,32]", "data.eval_batch_size=1", "trainer.max_epochs=2"],
        ["data=digit_scenes", "data.images={train:12,val:5,test:7}", "trainer.max_epochs=2"],
    ],
    ids=["void", "trained with void", "trained"],
)
def test_metrics_of_two_processes_are_those_of_one(tmp_path: Path, words: list[str]) -> None:
    root = fakes.camvid(tmp_path / "data", 3)
    own = ["model=single_convolution", "trainer=cpu", "threads=1", f"paths.data={root}", f"paths.outputs={tmp_path}"]
    line = [sys.executable, "-c", CODE, str(tmp_path), *words, *own, f"paths.cache={tmp_path / 'cache'}"]
    done = subprocess.run(line, cwd=TESTS, capture_output=True, text=True, timeout=600, check=False)
    logs = "".join(path.read_text()[-2000:] for path in tmp_path.glob("log.*"))
    assert done.returncode == 0, done.stderr + logs
    one, two = (json.loads((tmp_path / str(count) / "metrics.json").read_text()) for count in (1, 2))
    assert {"test/iou", "test/pixel_accuracy", "test/loss"} <= one.keys()
    assert one.keys() == two.keys()
    assert {name: two[name] for name in one} == pytest.approx(one, rel=1e-4, abs=1e-6, nan_ok=True)
