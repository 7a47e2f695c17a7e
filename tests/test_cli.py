"""The command from the shell: speed, exit codes, multiruns, completion."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

import pytest

from lightbed.cli import main

HEAVY = ("torch", "torchvision", "numpy", "lightning", "torchmetrics", "matplotlib", "rich")
QUICK = ["model=dnn", "trainer=debug", "callbacks.pictures=null", "logger=csv"]
BOOM = """from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layer = nn.Linear(64, num_classes)

    def forward(self, images):
        raise ArithmeticError("the network fell over")
"""


def python(code, *words, **options):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, **options)


def lightbed(*words, **options):
    return python("import sys; from lightbed.cli import main; sys.exit(main())", *words, **options)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


# -- speed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", ["--help", "train --help", "predict --help", "train --cfg job", "train seed=x", "check --cfg job", "trian"]
)
def test_what_needs_no_torch_imports_none(words):
    code = "import sys; from lightbed.cli import main; main(); print('HEAVY', *[name for name in sys.modules])"
    shown = python(code, *words.split()).stdout
    loaded = set(shown.partition("HEAVY ")[2].split())
    assert loaded
    assert not loaded & set(HEAVY)


@pytest.mark.slow
def test_help_and_configs_are_shown_faster_than_torch_is_imported():
    code = "import sys; from lightbed.cli import main; sys.exit(main())"
    kinds = {"torch": ("import torch",), "help": (code, "train", "--help"), "cfg": (code, "train", "--cfg", "job")}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(7):
        for kind, words in kinds.items():
            start = time.perf_counter()
            python(*words)
            seconds[kind].append(time.perf_counter() - start)
    torch, shown, config = (statistics.median(seconds[kind]) for kind in kinds)
    assert shown <= torch / 3
    assert config <= torch / 4


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_cfg_shows_what_a_line_means_and_makes_nothing(capsys, tmp_path):
    assert main(["train", "--cfg", "job", "model=dnn", "--package", "model"]) == 0
    assert "_target_: lightbed.models.dnn.DNN" in capsys.readouterr().out
    assert main(["train", "model=dnn", "--cfg", "all", "seed=3", "--resolve"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 3" in shown
    assert re.search(r"dir: outputs/classifier/\d{4}-", shown)
    assert not list(tmp_path.iterdir())


def test_info_is_hydras():
    shown = lightbed("train", "--info", "defaults")  # in a process of its own, for it turns all logging on
    assert shown.returncode == 0
    assert "model/cnn" in shown.stdout


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.match(r"lightbed \d+\.\d+\.\d+\n$", capsys.readouterr().out)


def test_a_reader_that_stops_early_is_no_error():
    code = "import sys; from lightbed.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "train", "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# -- runs --------------------------------------------------------------------------------------------------------------


def test_the_folder_of_a_run_is_the_users_choice_and_never_reused(capsys, tmp_path):
    assert main(["train", *QUICK, "hydra.run.dir=mine"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert json.loads(before[tmp_path / "mine" / "run.json"])["status"] == "done"
    capsys.readouterr()
    assert main(["train", *QUICK, "hydra.run.dir=mine"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "holds a run already" in told
    assert before == {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()}


def test_a_run_that_fails_ends_with_1_and_its_traceback_in_the_log(capsys, tmp_path, monkeypatch):
    (tmp_path / "boomnet.py").write_text(BOOM)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["model=custom", "model._target_=boomnet.Net", "trainer=debug", "callbacks=test", "hydra.run.dir=mine"]
    assert main(["train", *words]) == 1
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith(
        "lightbed: train failed: ArithmeticError: the network fell over (traceback in "
    )
    assert "Traceback" not in told
    log = (tmp_path / "mine" / "log.txt").read_text()
    assert "Traceback (most recent call last)" in log
    assert "boomnet.py" in log
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["status"] == "failed"


def test_a_multirun_goes_on_past_a_failed_job_and_shows_the_others(capsys, tmp_path):
    words = [*QUICK, "model.hidden=[4],[8]", "data.batch_size=0,32", "hydra.sweep.dir=many", "hydra/launcher=basic"]
    assert main(["train", "-m", *words]) == 2
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if line.startswith("lightbed: ")]
    assert len(told) == 2
    assert all("data.batch_size=0" in line and "must be at least 1" in line for line in told)
    jobs = sorted(path.name for path in (tmp_path / "many").iterdir() if path.is_dir())
    assert len(jobs) == 4
    assert (tmp_path / "many" / "report.md").is_file()


def test_ctrl_c_ends_with_130(tmp_path):
    code = "import sys; from lightbed.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", code, "train", "model=dnn", "trainer.max_epochs=100000", "hydra.run.dir=mine"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert rest.splitlines()[-1] == "lightbed: interrupted"
    assert json.loads((tmp_path / "mine" / "run.json").read_text())["status"] == "interrupted"


# -- completion --------------------------------------------------------------------------------------------------------

BASH = """
eval "$(lightbed -sc install=bash)"
complete -p lightbed
while IFS= read -r line; do
    COMP_LINE="$line"; COMP_POINT=${#line}; COMP_WORDS=($line)
    [ "${line: -1}" = " " ] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
    hydra_bash_completion
    echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """Asks a real bash for the words that the tab key offers after each line."""
    folder = tmp_path_factory.mktemp("bash")
    script = folder / "lightbed"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lightbed "$@"\n')
    script.chmod(0o755)
    (folder / "outputs" / "mine").mkdir(parents=True)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def ask(*lines):
        text = "\n".join(lines) + "\n"
        done = subprocess.run(
            ["bash", "-c", BASH], input=text, capture_output=True, text=True, env=environment, cwd=folder, check=True
        )
        first, *answers = done.stdout.splitlines()
        assert "-F hydra_bash_completion lightbed" in first
        return [answer.split() for answer in answers]

    return ask


def test_the_tab_key(bash):
    lines = {
        "lightbed ": {"train", "check", "test", "predict", "rerun", "report", "serve", "export", "--help", "--version"},
        "lightbed tr": {"train"},
        "lightbed train exp": {"experiment="},
        "lightbed train optimizer=": {f"optimizer={name}" for name in ("adam", "adamw", "custom", "rmsprop", "sgd")},
        "lightbed train -m optimizer=sgd,adam trainer.max_": {"trainer.max_epochs=", "trainer.max_time="},
        "lightbed train optimizer=sgd optimizer.mo": {"optimizer.momentum="},
        "lightbed train --cfg ": {"job", "all", "hydra"},
        "lightbed train --multi": {"--multirun"},
        "lightbed rerun tr": {"trust="},
        "lightbed test run=outputs/": {"run=outputs/mine/"},
        "lightbed unknown x": set(),
    }
    for (line, expected), found in zip(lines.items(), bash(*lines), strict=True):
        assert set(found) == expected, line


def test_the_tab_key_offers_all_options(bash):
    from lightbed import catalogue

    models, keys = bash("lightbed train model=", "lightbed train ")
    assert {word.partition("=")[2] for word in models} == set(catalogue.groups([catalogue.conf_dir()])["model"])
    assert {"seed=", "trainer.", "data=", "experiment="} <= set(keys)
    assert not any(word.startswith("hydra") for word in keys)


def test_completion_of_an_unknown_shell_is_told(capsys):
    assert main(["-sc", "install=tcsh"]) == 2
    assert "install=bash" in capsys.readouterr().err
