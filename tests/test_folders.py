"""Names of run folders: new ones, jobs of multiruns, titles."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lightbed import folders
from lightbed.cli import main
from lightbed.errors import UserError

LAUNCH = "import sys; from lightbed import folders; folders.register([]); print(folders.new_folder(sys.argv[1]))"


@given(count=st.integers(2, 40))
@settings(max_examples=10, deadline=None)
def test_launches_in_one_second_never_share_a_folder(count, tmp_path_factory):
    base = tmp_path_factory.mktemp("outputs")
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: folders.claim(base), range(count)))
    assert len(set(made)) == count
    assert all(path.is_dir() and re.match(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?$", path.name) for path in made)


def test_processes_never_share_a_folder(tmp_path):
    words = [sys.executable, "-c", LAUNCH, str(tmp_path / "outputs" / "name")]
    launched = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    made = {process.communicate()[0].strip() for process in launched}
    assert len(made) == 6
    assert all(Path(folder).is_dir() for folder in made)


def test_one_process_gets_one_folder_a_parent(tmp_path):
    folders.register([])
    first = folders.new_folder(str(tmp_path / "a"))
    assert folders.new_folder(str(tmp_path / "a")) == first
    assert folders.new_folder(str(tmp_path / "b")) != first
    folders.register([])
    assert folders.new_folder(str(tmp_path / "a")) != first


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_further_process_of_a_run_takes_no_folder_of_its_own(name, tmp_path, monkeypatch):
    """As torchrun and srun start it, without a word of where the first process writes."""
    folders.register([])
    monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=r"start all processes with the same hydra\.run\.dir=FOLDER"):
        folders.new_folder(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    monkeypatch.setenv(name, "0")
    assert Path(folders.new_folder(str(tmp_path / "a"))).is_dir()


def test_a_config_that_is_only_shown_makes_no_folder(tmp_path):
    folders.register([], dry=True)
    assert folders.new_folder(str(tmp_path / "a")).startswith(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    folders.register([])
    with pytest.raises(
        UserError, match=r"cannot create a run folder in .*file/outputs: Not a directory; set paths.outputs"
    ):
        folders.new_folder(str(tmp_path / "file" / "outputs"))


words = st.lists(
    st.text(st.characters(blacklist_characters=",[]", blacklist_categories=("Cs",)), min_size=1), min_size=1
)


@given(first=words, second=words)
def test_job_names_are_safe_and_different(first, second):
    name = folders.safe_name(first)
    assert re.fullmatch(r"[\w=,.+-]+", name)
    assert len(name.encode()) < 200
    assert name not in (".", "..")
    assert (folders.safe_name(second) == name) == (second == first)


def test_job_names_say_what_varies():
    assert folders.safe_name(["augment=flip", "trainer.max_epochs=15"]) == "augment=flip,trainer.max_epochs=15"
    assert folders.safe_name(["model.hidden=[256,64]", "seed=1"]) == "model.hidden=256-64,seed=1"
    assert re.fullmatch(r"data.root=-home-photos-[0-9a-f]{6}", folders.safe_name(["data.root=/home/photos"]))


def job(overrides, number, params=None):
    """The folder that Hydra's config gives to a job."""
    hydra = {"overrides": {"task": overrides}, "job": {"num": number}, "sweeper": {"params": params}}
    config = OmegaConf.create({"hydra": hydra, "name": "${job_name:${hydra.overrides.task}}"})
    return config.name


def test_jobs_are_named_by_what_the_line_and_the_config_sweep():
    folders.register(["model=cnn,dnn", "seed=range(0,2)", "trainer.max_epochs=3", "+x=choice(1,2)"])
    assert job(["model=cnn", "seed=1", "trainer.max_epochs=3", "+x=2"], 0) == "model=cnn,seed=1,x=2"
    params = {"augment": "none,flip", "optimizer.lr": "choice(0.1,0.2)", "data": "digits"}
    assert job(["augment=flip", "optimizer.lr=0.1", "data=digits", "model=cnn"], 1, params) == (
        "augment=flip,optimizer.lr=0.1,model=cnn"
    )


def test_equal_jobs_get_folders_of_their_own():
    folders.register(["seed=0,0,0"])
    names = [job(["seed=0"], number) for number in range(3)]
    assert names == ["seed=0", "seed=0_1", "seed=0_2"]
    assert job(["seed=0"], 1) == "seed=0_1"  # asked again, the same


def test_a_job_of_a_sweep_over_nothing_is_named_by_all_its_words():
    folders.register(["seed=3"])
    assert job(["seed=3"], 0) == "seed=3"
    assert job([], 1) == "job"


def test_all_jobs_of_a_multirun_lie_in_one_folder(tmp_path):
    folders.register([])
    config = OmegaConf.create({"name": "a", "dir": f"${{sweep_folder:{tmp_path}/${{name}}}}"})
    other = OmegaConf.merge(config, {"name": "b"})
    assert config.dir == other.dir
    assert folders.sweep_folder() == Path(config.dir)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("outputs/classifier/2025-01-02_03-04-05", "classifier/2025-01-02_03-04-05"),
        ("outputs/classifier/2025-01-02_03-04-05_1/seed=0", "classifier/2025-01-02_03-04-05_1/seed=0"),
        ("runs/mine", "mine"),
    ],
)
def test_titles(folder, name):
    assert folders.run_name(Path(folder)) == name


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="only Linux has a folder that nobody may write into")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paths.outputs=/sys/kernel"], "cannot create a run folder in /sys/kernel/classifier: "),
        (["hydra.run.dir=/sys/kernel"], "cannot write into the run folder /sys/kernel: "),
    ],
)
def test_a_read_only_place_is_told_in_one_line(words, told, tmp_path, capfd, monkeypatch):
    from lightbed.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    message = capfd.readouterr().err.strip()
    assert message.startswith(f"lightbed: {told}")
    assert message.endswith("set paths.outputs")
    assert len(message.splitlines()) == 1


def test_outputs_may_be_a_link(tmp_path, monkeypatch):
    """The run lies where the link points to, `latest` is right on both ways, and commands take either."""
    from lightbed.cli import main
    from lightbed.runs.load import find_checkpoint

    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "disk", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    quick = ["trainer.max_epochs=0", "trainer.accelerator=cpu", "test=none", "logger=csv", "model.channels=[4]"]
    assert main(["train", *quick]) == 0
    latest = tmp_path / "outputs" / "latest"
    assert latest.resolve().parent == tmp_path / "disk" / "classifier"
    for folder in (latest, tmp_path / "disk" / "latest"):
        assert find_checkpoint(folder).samefile(latest.resolve() / "checkpoints" / "last.ckpt")
    (tmp_path / "outputs" / "classifier").rename(tmp_path / "elsewhere")
    (tmp_path / "outputs" / "classifier").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert main(["train", *quick]) == 0
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


def test_a_run_makes_its_own_folder_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra asks for the folder's name while it merges files, when the outputs' place is not known yet."""
    monkeypatch.chdir(tmp_path)
    words = ["experiment=localizer", "data.images={train: 4, val: 2, test: 2}", "trainer.max_epochs=0"]
    made: list[str] = []
    monkeypatch.setattr(folders, "claim", lambda base, claim=folders.claim: made.append(str(base)) or claim(base))
    assert main(["train", *words, "paths.outputs=elsewhere", "callbacks.pictures=null"]) == 0
    assert made == ["elsewhere/localizer"]
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["elsewhere"]
