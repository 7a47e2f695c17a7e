"""Help texts: everything there is, one line each, legible."""

from pathlib import Path

import pytest

from lightbed import catalogue
from lightbed import help as texts
from lightbed.cli import COMMANDS, main

CONF = catalogue.conf_dir()
GROUPS = catalogue.groups([CONF])
FILES = sorted(file.relative_to(CONF).as_posix() for file in CONF.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES)
def test_every_config_file_says_what_it_is(file):
    described = catalogue.describe(CONF / file)
    assert described
    assert len(described) <= 120


def test_the_overview_lists_commands_groups_experiments_and_examples(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for name, text in COMMANDS.items():
        assert f"{name} {text}" in lines
    for group in set(GROUPS) - {"experiment", "sweep"}:
        assert any(line.startswith(f"{group} ") for line in lines), group
    for group in ("experiment", "sweep"):
        for option, file in GROUPS[group].items():
            assert f"{option} {catalogue.describe(file)}"[:60] in " ".join(lines)
    assert "lightbed train -m model=cnn,dnn seed=0,1,2" in shown
    assert 'eval "$(lightbed -sc install=bash)"' in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_a_commands_help_lists_its_keys_and_each_option(command, capsys):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    flat = " ".join(shown.split())
    assert shown.startswith(f"lightbed {command}: {COMMANDS[command]}\n")
    for key in catalogue.keys(CONF / f"{command}.yaml"):
        assert f"{key.name}={key.value}" in shown
        assert key.comment, f"{key.name} has no comment"
        assert " ".join(key.comment.split()) in flat
    for group in catalogue.defaults(CONF / f"{command}.yaml"):
        for option, file in GROUPS.get(group, {}).items():
            assert f" {option} " in flat
            assert " ".join(catalogue.describe(file).split()) in flat


def test_train_has_all_groups():
    assert set(GROUPS) - {"hydra"} <= set(catalogue.defaults(CONF / "train.yaml")) | {"hydra/launcher", "hydra/sweeper"}


@pytest.mark.parametrize(
    "words", [["--help"], *([command, "--help"] for command in COMMANDS), ["train", "data=image_folder", "-h"]]
)
def test_texts_fit_100_columns_and_are_plain_where_piped(words, capsys):
    main(words)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines) <= texts.WIDTH
    assert not any("\033" in line or line != line.rstrip() for line in lines)


def test_no_words_at_all_show_the_overview(capsys):
    assert main([]) == 2
    assert "Commands" in capsys.readouterr().out
    assert main(["help", "train"]) == 0
    assert "lightbed train: " in capsys.readouterr().out


def test_the_keys_of_an_option(capsys):
    assert main(["train", "optimizer=sgd", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Stochastic gradient descent" in shown
    assert "optimizer.momentum=0.9" in shown
    assert main(["train", "data=fashion_mnist", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "data.batch_size=64" in shown  # from the keys that all share
    assert "data.mean=0.286" in shown
    assert shown.count("data.mean=") == 1
    assert main(["train", "experiment=fashion_mnist_dnn", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "trainer.max_epochs=250" in shown
    assert "89.39 %" in shown


def test_ones_own_configs_are_listed_too(tmp_path: Path, capsys):
    for name, text in {
        "model/mine": "# My network\n",
        "experiment/first": "# @package _global_\n# My first try\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    for words in (["--help"], ["train", "--help"]):
        assert main([*words, "--config-dir", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert "My first try" in shown
        assert "My network" in shown or words == ["--help"]
    assert main(["train", "--help", "--config-dir", "/no/such"]) == 2


def test_keys_are_read_as_they_stand(tmp_path):
    file = tmp_path / "x.yaml"
    text = "# One\ndefaults:\n  - base\n  - /model: cnn\n  - _self_\n"
    file.write_text(f"{text}a: 1   # first\nb:\n  c: x  # third\n  d:\n    - 1\ne: [1, 2]\n")
    (tmp_path / "base.yaml").write_text("# Shared\na: 0  # of base\nz: null  # last\n")
    found = {key.name: (key.value, key.comment) for key in catalogue.keys(file)}
    assert found["a"] == ("1", "first")
    assert found["z"] == ("null", "last")
    assert found["b.c"] == ("x", "third")
    assert found["e"] == ("[1, 2]", "")
    assert catalogue.parents(file) == ["base"]
    assert catalogue.defaults(file) == {"/model": "cnn"}
    assert set(catalogue.groups([tmp_path])) == set()
