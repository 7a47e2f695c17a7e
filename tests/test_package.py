"""The wheel: `pip install .` in any environment gives the command with its configs inside."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_wheel_has_the_command_and_its_configs(tmp_path: Path) -> None:
    """Install into a clean environment, which borrows only the dependencies, and run away from the tree."""
    wheels = tmp_path / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = wheels.glob("lightbed-*.whl")

    clean = tmp_path / "clean"
    venv.create(clean, with_pip=True)
    python = clean / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    site = next((clean / "lib").glob("python*/site-packages"))
    ours = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    # dependencies only: the editable Lightbed of this environment is found later than the installed one
    (site / "dependencies.pth").write_text(str(ours))

    script = clean / "bin" / "lightbed"
    shown = subprocess.run([script, "train", "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "lightbed.data.digits.Digits" in shown.stdout
    where = "import lightbed.cli as c; print(c.conf_dir())"
    folder = subprocess.run([python, "-P", "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(folder.stdout.strip()) == site / "lightbed" / "conf"
    tiny = ["trainer.max_epochs=1", "model.channels=[4]", "callbacks.pictures=null"]
    many = ["-m", "seed=0,1", "threads=1"]  # the launcher is found in the wheel's own namespace package
    done = subprocess.run([script, "train", *tiny, *many], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 jobs, " in done.stdout
    assert (tmp_path / "outputs" / "latest" / "metrics.json").is_file()
