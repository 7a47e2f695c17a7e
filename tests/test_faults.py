"""Mistakes of a command line: one line, the nearest real names, exit code 2."""

import pytest

from lightbed import faults, preflight
from lightbed.cli import main
from lightbed.errors import UserError
from lightbed.words import read

MISTAKES = [
    # keys
    ("trainer.max_epoch=3", "trainer.max_epoch does not exist: did you mean trainer.max_epochs?"),
    ("callbacks.pictures.sample=[1]", "did you mean callbacks.pictures.samples?"),
    ("modle=resnet18", "modle does not exist: did you mean model?"),
    ("optimizer.learning_rate=1", "did you mean optimizer.lr?"),
    ("lr=0.1", "lr does not exist: did you mean optimizer.lr?"),
    ("batch_size=32", "did you mean data.batch_size?"),
    ("trainer.batch_size=32", "did you mean data.batch_size?"),
    ("epochs=3", "did you mean trainer.max_epochs?"),
    ("gpus=1", "did you mean trainer.devices?"),
    ("trianer.max_epochs=3", "did you mean trainer.max_epochs?"),
    ("model.foo.bar=1", "model.foo.bar does not exist: model has in_channels, num_classes"),
    ("~seeed", "seeed does not exist: did you mean seed?"),
    ("+seed=3", "needs no +: write seed=3"),
    ("+model=dnn", "needs no +: write model=dnn"),
    ("hydra.rum.dir=x", "did you mean hydra.run.dir"),
    ("experiment.x=1", "no experiment is chosen; name one before it, as in experiment=NAME experiment.x=1"),
    ("task.rates.head=0.1", "task.rates is null; give the whole of it: 'task.rates={head: 0.1}'"),
    ("xyzzy=1", "xyzzy does not exist: there is augment, callbacks, data"),
    # options
    ("data=digit", "data=digit does not exist: did you mean digits"),
    ("experiment=fashion_mnst_dnn", "did you mean fashion_mnist_dnn"),
    ("model=resnet_18", "did you mean resnet18"),
    ("model/dnn=3", "model/dnn does not exist"),
    ("hydra/launcher=slrum", "hydra/launcher=slrum does not exist: did you mean slurm?"),
    # several values
    ("model=cnn,dnn", "model=cnn,dnn holds several values: add -m for a run each"),
    ("seed=0,1", "write 'seed=[0,1]' for a list"),
    ("-m model=cnn,resnt18 seed=0,1", "model=resnt18 does not exist: did you mean resnet18"),
    ("-m modle=cnn,dnn", "modle does not exist: did you mean model?"),
    ("-m data=digits,fashion_mnist data.rot=x", "data.rot does not exist"),
    # syntax
    ("foo", "'foo' is no key=value"),
    ("digits", "did you mean data=digits?"),
    ("model", "model needs a value, such as model="),
    ("a=[1", "[ and ] do not match"),
    ("=3", "write key=value without spaces around the ="),
    # values
    ("seed=abc", "seed=abc is not a number (it is 0 by default)"),
    ("optimizer.lr=abc", "optimizer.lr=abc is not a number (it is 0.001 by default)"),
    ("optimizer=sgd optimizer.lr=abc", "(it is 0.1 by default)"),
    ("-m seed=0,1,two", "seed=two is not a number"),
    ("data.drop_last=maybe", "data.drop_last=maybe is not true or false (it is false by default)"),
    ("~model", "train needs a model: choose another instead, such as model="),
    ("-m seed=glob(*)", "seed=glob(*) fits no option"),
    # flags
    ("--multrun", "train has no flag --multrun: did you mean --multirun?"),
    ("--lr 0.1", "settings are written without dashes: lr=VALUE"),
    ("-m --cfg job", "Only one of"),
    ("--resolve", "--resolve flag can only be used"),
    # places
    ("hydra.run.dir=/dev/null/x", "/dev/null/x: Not a directory"),
    (
        "paths.outputs=/dev/null/x",
        "cannot create a run folder in /dev/null/x/classifier: Not a directory; set paths.outputs",
    ),
]


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("words", "told"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line(words, told, capsys, tmp_path):
    assert main(["train", *words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("lightbed: ")
    assert told in printed.err
    assert "To append" not in printed.err
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "there is no command 'trian': did you mean train?"),
        (["model=cnn"], "a command comes first, as in lightbed train model=cnn"),
        (["--multirun"], "a command comes first"),
        (["test"], "run=..."),
        (["test", "runn=x"], "did you mean run?"),
        (["train", "data.root=my photos (2)"], """quote it: 'data.root="my photos (2)"'"""),
        (["train", "optimizer.lr=${foo}"], "optimizer.lr: Interpolation key 'foo' not found"),
        (["train", "--config-dir", "/no/such"], "--config-dir /no/such: there is no such folder"),
        (["train", "--config-name", "trian"], "'trian'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_mistakes(words, told, capsys):
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert told in printed


def test_a_parameter_that_its_class_has_is_added_with_plus(capsys):
    assert main(["train", "trainer.max_steps=100"]) == 2
    assert "lightning.pytorch.Trainer takes it, but the config does not list it: +trainer.max_steps=100" in (
        capsys.readouterr().err
    )


def test_faults_in_a_folder_of_ones_own(tmp_path, capsys):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    file = tmp_path / "mine" / "experiment" / "mine.yaml"
    words = ["train", "--config-dir", str(tmp_path / "mine"), "experiment=mine"]
    for text, told in [
        (
            "# @package _global_\ndefaults: [{override /model: nett}]\n",
            "its file names model/nett, which does not exist",
        ),
        ("# @package _global_\nseed: [1\n", "mine.yaml"),
        ("# @package _global_\ndefaults: [{override /modell: cnn}]\n", "modell"),
    ]:
        file.write_text(text)
        assert main(words) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert told in printed
    assert main([*words[:-1], "experiment=mien"]) == 2
    assert "did you mean mine?" in capsys.readouterr().err


def test_a_faulty_parameter_of_a_sweep_config(tmp_path, capsys):
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      modle: cnn,dnn\n"
    (tmp_path / "mine" / "sweep" / "two.yaml").write_text(text)
    assert main(["train", "--config-dir", str(tmp_path / "mine"), "sweep=two"]) == 2
    assert "modle does not exist: did you mean model?" in capsys.readouterr().err


def test_right_lines_have_no_fault():
    for words in (
        ["model=dnn", "optimizer=sgd"],
        ["-m", "model=cnn,dnn", "optimizer=glob(a*)", "seed=range(0,3)"],
        ["+new.key=3"],
    ):
        line = read("train", words)
        assert faults.find(line) is None
        preflight.check(line)


@pytest.mark.parametrize(
    "words",
    [
        "trainer.deterministic=warn",
        "trainer=cpu trainer.devices=auto",
        "data.image_size=28",
        "name=3",
        "seed=${threads}",
    ],
)
def test_words_in_place_of_numbers_that_are_fine(words):
    preflight.check(read("train", words.split()))


def test_one_line_of_a_workers_error():
    told = "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  x\n"
    assert faults.one_line(UserError(f"{told}UserError: a.png is broken")) == "a.png is broken"
    assert faults.one_line(ValueError("two\n  lines")) == "two lines"
    assert faults.one_line(ValueError()) == "ValueError"
    assert len(faults.one_line(ValueError("word " * 1000))) < 650


def test_our_own_error_is_found_behind_a_librarys():
    around = RuntimeError("while resolving")
    around.__cause__ = UserError("the folder is full")
    assert str(faults.users_mistake(around)) == "the folder is full"
    assert faults.users_mistake(RuntimeError("loss is nan")) is None
