"""Class names in any script: drawn by a font that has their letters, else written in codes."""

import warnings

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.font_manager import fontManager, get_font

from lightbed.draw import letters
from lightbed.draw.boxes import detected
from lightbed.draw.classes import confusion_matrix, label_scores, precision_recall
from lightbed.draw.figure import pixels
from lightbed.draw.grid import image_grid
from lightbed.draw.panel import Panel

HERE = "DejaVu Sans"
NAMES = ["猫", "ねこ cat", "Ærø ß ё ك"]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(letters, "_told", set())
    letters._font_with.cache_clear()
    yield
    letters._font_with.cache_clear()


@pytest.fixture
def bare(monkeypatch):
    """A machine with matplotlib's own font alone."""
    monkeypatch.setattr(fontManager, "ttflist", [font for font in fontManager.ttflist if font.name == HERE])


@pytest.fixture
def rare():
    """A letter that DejaVu Sans lacks and another of matplotlib's fonts has."""
    folder = f"{mpl.get_data_path()}/fonts/ttf"
    ours = get_font(letters.own_file())
    others = [font for font in fontManager.ttflist if font.fname.startswith(folder) and "STIX" in font.fname]
    for font in others:
        for code in get_font(font.fname).get_charmap():
            if chr(code).isprintable() and not ours.get_char_index(code):
                return chr(code)
    return None


def test_names_that_the_own_font_has_stay_as_they_are(bare):
    for name in ("T-shirt/top", "Ærø ß ё ك", "a=b,c [x] \\u732b", ""):
        assert letters.spelled(name) == name
        assert letters.families(name) == [HERE]
        assert letters.font_file(name) == (letters.own_file(), name)


def test_letters_without_a_font_are_written_as_codes_and_told_once(bare, capsys):
    assert letters.spelled("猫 cat") == "\\u732b cat"
    assert letters.font_file("猫 0.98") == (letters.own_file(), "\\u732b 0.98")
    letters.spelled("猫")
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert "no font here has the letters 猫: pictures write codes such as \\u732b" in told


def test_another_font_of_the_machine_helps_out(rare, capsys):
    assert letters.spelled(f"x{rare}") == f"x{rare}"
    families = letters.families(f"x{rare}")
    assert families[0] == HERE
    assert len(families) == 2
    file, text = letters.font_file(rare)
    assert (file != letters.own_file(), text) == (True, rare)
    assert capsys.readouterr().out == ""


def pictures():
    """Every picture that class names stand in."""
    count = len(NAMES)
    curves = {name: np.linspace(0, 1, 5)[None].repeat(count, 0) for name in ("precision", "recall")}
    yield lambda: pixels(confusion_matrix(np.eye(count, dtype=int), NAMES, "猫"))
    yield lambda: pixels(precision_recall({**curves, "average_precision": np.ones(count)}, NAMES, "猫"))
    yield lambda: pixels(label_scores(np.ones((4, count), int), NAMES, "猫", "below"))
    image = np.zeros((20, 20, 3), np.uint8)
    yield lambda: pixels(
        image_grid([Panel(image, f"not {name} but 猫", "#000000", ((name, "#ff0000"),)) for name in NAMES], "猫")
    )
    objects = {"boxes": torch.tensor([[1.0, 1, 9, 9]]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    yield lambda: detected(torch.zeros(3, 20, 20, dtype=torch.uint8), objects, {}, NAMES).image


@pytest.mark.parametrize("number", range(5))
def test_no_picture_lacks_a_letter(bare, number):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of each glyph that it replaces by a box
        assert list(pictures())[number]().std() > 0
