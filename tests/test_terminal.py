"""Names of files and classes on the terminal: as they are, and harmless."""

import pytest
from rich.table import Table

from lightbed.runs.log import say, show

NAMES = ["img[final].png", "[/x]", ":cat:", "[link=http://a]b", "\u00fc \u4e2d"]


def test_tables_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", "[b]other")
    for name in NAMES:
        table.add_row(name, name)
    show(table)
    lines = capsys.readouterr().out.splitlines()
    for name in ("[b]other", *NAMES):
        assert any(name in line for line in lines), name


def test_what_a_terminal_would_act_upon_is_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row("a\x1b[31mred\x07\x9b2J")
    show(table)
    say("class b\x1b]0;title\x07")
    out = capsys.readouterr().out
    assert "a\\x1b[31mred\\x07\\x9b2J" in out
    assert "class b\\x1b]0;title\\x07\n" in out
    assert "\x1b" not in out
