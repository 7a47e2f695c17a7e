"""A command line taken apart, its paths quoted."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lightbed.errors import UserError
from lightbed.signatures import fits, in_words, mismatch
from lightbed.words import quote, read


def test_flags_may_stand_anywhere():
    line = read("train", ["model=cnn", "-m", "seed=0,1", "--config-name", "other", "trainer=cpu"])
    assert line.overrides == ["model=cnn", "seed=0,1", "trainer=cpu"]
    assert line.argv == ["--multirun", "--config-name", "other", *line.overrides]
    assert line.config == "other"
    assert line.runs
    assert not read("train", ["--cfg", "job"]).runs


def test_the_users_folder_of_configs_is_added(tmp_path):
    assert read("train", ["--config-dir", str(tmp_path)]).folders[1:] == [tmp_path]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--multrun"], "no flag --multrun: did you mean --multirun?"),
        (["--lr", "0.1"], "settings are written without dashes: lr=VALUE"),
        (["--max-epochs=3"], "settings are written without dashes: max_epochs=VALUE"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["--config-dir", "/no/such"], "--config-dir /no/such: there is no such folder"),
        (["lr", "=", "0.1"], "without spaces"),
        (["lr", "=0.1"], "without spaces"),
    ],
)
def test_wrong_flags_are_told(words, told):
    with pytest.raises(UserError) as error:
        read("train", words)
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["seed=0,model=cnn", "räume", "my photos (2)", "it's", "a:b", "50%", "[old]", "a,b"])
def test_paths_are_read_as_they_are(name, tmp_path):
    (tmp_path / name).mkdir()
    word = quote(f"run={tmp_path / name}")
    assert OverridesParser.create().parse_override(word).value() == str(tmp_path / name)


def test_a_path_that_is_not_there_is_read_as_well():
    word = quote("run=outputs/seed=0,model=cnn/x")
    assert OverridesParser.create().parse_override(word).value() == "outputs/seed=0,model=cnn/x"
    assert OverridesParser.create().parse_override(quote("data.root=~/photos")).value() == "~/photos"


@pytest.mark.parametrize(
    "word", ["model=cnn,dnn", "a=[1,2]", "x='a,b'", "lr=range(0,3)", "seed=1", "a={b: 1}", "foo", "x="]
)
def test_what_is_no_path_is_left_to_hydra(word):
    assert quote(word) == word


@given(st.text(st.characters(blacklist_characters="\x00\\", blacklist_categories=("Cs", "Cc")), min_size=1))
def test_any_path_survives_quoting(name):
    value = f"/no/such/{name}"
    word = quote(f"run={value}")
    read_back = OverridesParser.create().parse_override(word)
    if not read_back.is_sweep_override():
        assert str(read_back.value()).strip() in (value, value.strip())


class Parent:
    def __init__(self, size: int, rate: float = 0.1, *, name: str | None = None) -> None: ...


class Child(Parent):
    def __init__(self, widths: list[int], flag: bool = True, **common: object) -> None: ...


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"size": 3, "rate": 1, "name": None, "widths": [1, 2], "flag": False}, None),
        ({"size": "x"}, "model.size=x: Child takes a whole number"),
        ({"size": 1.5}, "model.size=1.5: Child takes a whole number"),
        ({"size": True}, "model.size=True: Child takes a whole number"),
        ({"rate": "fast"}, "model.rate=fast: Child takes a number"),
        ({"name": 3}, "model.name=3: Child takes a text or null"),
        ({"widths": ["a"]}, "model.widths=['a']: Child takes a list of whole numbers"),
        ({"widths": 3}, "model.widths=3: Child takes a list of whole numbers"),
        ({"flag": "on"}, "model.flag=on: Child takes true or false"),
        ({"_target_": "x", "unheard_of": 3}, None),
    ],
)
def test_values_are_held_against_type_hints(config, told):
    assert mismatch(config, Child, "model") == told


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.text(), st.booleans(), st.none()))
def test_fits_is_isinstance_but_for_bools_and_whole_floats(value):
    assert fits(value, int) == (type(value) is int)
    assert fits(value, float) == (type(value) in (int, float))
    assert fits(value, str | None) == (type(value) in (str, type(None)))
    assert fits(value, object)


def test_hints_in_words():
    assert in_words(int | list[float] | None) == "a whole number or a list of numbers or null"
