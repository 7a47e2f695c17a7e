"""The code of a sweep is frozen: what may be edited is copied, and jobs import the copies, whatever becomes of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lightbed
from lightbed.sweeps.code import Code, closure, installed, named

SOURCES = {
    "mine.py": "from pathlib import Path\nimport torch\nWORD = Path(__file__).with_name('word.txt').read_text()\n"
    "def late():\n    from blocks.deep import VALUE\n    return VALUE\ndef ill():\n    raise ValueError('as it was')\n",
    "blocks/deep.py": "from . import deeper\nVALUE = deeper.VALUE\n",
    "blocks/deeper.py": "VALUE = 'old'\n",
    "blocks/apart.py": "",
    "kit/__init__.py": "import importlib\ndef get(name):\n    return importlib.import_module(f'kit.{name}')\n",
    "kit/nets.py": "from .inner.most import VALUE\n",
    "kit/inner/__init__.py": "",
    "kit/inner/most.py": "VALUE = 'old'\n",
    "kit/broken.py": "this is no Python",
    "other.py": "",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with sources of the user's."""
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "word.txt").write_text("beside it")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_is_named_and_what_that_imports_is_found(here: Path) -> None:
    config = {"model": {"_target_": "mine.Net", "parts": ["kit.nets.Part", 3]}, "lr": "0.01", "file": "a b.c"}
    assert named(config) == {"mine.Net", "kit.nets.Part"}
    found = closure(["mine.Net", "torch.nn.Module", "json.loads", "lightbed.models.cnn.CNN", "nowhere.Net"])
    assert {name: str(file.relative_to(here)) for name, file in found.items()} == {
        "mine": "mine.py",
        "blocks.deep": "blocks/deep.py",
        "blocks.deeper": "blocks/deeper.py",
    }
    assert closure(["kit.nets.Part"]).keys() == {"kit", "kit.nets", "kit.inner", "kit.inner.most", "kit.broken"}
    (here / "large").mkdir()
    for name in ("__init__", *(f"part_{number}" for number in range(1000))):
        (here / "large" / f"{name}.py").touch()
    assert not closure(["large.part_7.Net"])
    assert installed(Path(pytest.__file__))
    assert installed(Path(os.__file__))
    assert not installed(here / "mine.py")


PROGRAM = """
import sys, traceback
from lightbed.sweeps import imports
imports.use(sys.argv[1])
import kit, mine, lightbed
print(mine.__file__, mine.WORD, mine.late(), kit.get("nets").VALUE, kit.get("new").VALUE, lightbed.__file__)
try:
    mine.ill()
except ValueError:
    traceback.print_exc(file=sys.stdout)
"""


def test_a_new_python_imports_what_was_frozen(here: Path) -> None:
    """Lightbed's copy, the user's text; the names of the files stay, for what is read beside them."""
    (here / "mine.py").write_text(SOURCES["mine.py"].replace("import torch\n", ""))  # which takes seconds
    code = Code.freeze(here / "many")
    code.add({"_target_": "mine.Net", "part": "kit.nets.Part"})
    for name in SOURCES:
        (here / name).write_text("VALUE = 'new'\n")
    (here / "kit" / "new.py").write_text("VALUE = 'not frozen'\n")
    command = [sys.executable, "-P", "-c", PROGRAM, str(code.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **code.variables})
    first, *trace = done.stdout.splitlines()
    home = here / "many" / "frozen" / "code_1" / "lightbed" / "__init__.py"
    assert first == f"{here / 'mine.py'} beside it old old not frozen {home}"
    assert f'File "{here / "mine.py"}", line ' in trace[-3]
    assert trace[-2].strip() == "raise ValueError('as it was')"


@pytest.mark.parametrize(("before", "after"), [(None, []), ("", []), (f"one{os.pathsep}two", ["one", "two"])])
def test_the_folders_a_user_imports_from_stay(
    here: Path, monkeypatch: pytest.MonkeyPatch, before: str | None, after: list[str]
) -> None:
    """An empty entry would be the working directory, which nobody asked for."""
    if before is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", before)
    code = Code.freeze(here / "many")
    assert code.variables["PYTHONPATH"].split(os.pathsep) == [str(here / "many" / "frozen" / "code_1"), *after]


def test_a_sweep_that_goes_on_has_the_code_of_that_day(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(here.parent))
    first = Code.freeze(here / "many")
    first.add({"_target_": "mine.Net"})
    again = Code.freeze(here / "many")
    assert again.folder == first.folder
    assert again.modules.keys() == {"mine", "blocks.deep", "blocks.deeper"}
    (here / "blocks" / "deeper.py").write_text("VALUE = 'mended'\n")
    mended = Code.freeze(here / "many")
    assert mended.folder.name == "code_2"
    assert not mended.modules  # until they are named
    mended.add({"_target_": "mine.Net"})
    assert (mended.folder / "own" / "blocks" / "deeper.py").read_text() == "VALUE = 'mended'\n"
    assert (first.folder / "own" / "blocks" / "deeper.py").read_text() == "VALUE = 'old'\n"
    assert Code.freeze(here / "many").folder == mended.folder
    # Lightbed's own code is another
    (mended.folder / "lightbed" / "words.py").write_text("")
    assert Code.freeze(here / "many").folder.name == "code_3"


def test_jobs_record_the_checkout_that_their_code_came_from(here: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "mine.py"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    (here / "mine.py").write_text("VALUE = 'uncommitted'\n")
    code = Code.freeze(here / "many")
    assert Code.freeze(here / "many").folder == code.folder, "the copies are no part of the checkout"
    (here / "mine.py").write_text("VALUE = 'edited while it runs'\n")
    program = (
        "import sys\nfrom lightbed.sweeps import imports\nimports.use(sys.argv[1])\n"
        "print(imports.used().content['git'], imports.used().diff().decode())"
    )
    command = [sys.executable, "-P", "-c", program, str(code.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **code.variables})
    assert "'changed': True" in done.stdout
    assert "+VALUE = 'uncommitted'" in done.stdout
    assert "edited" not in done.stdout
    assert Code.freeze(here / "many").folder.name == "code_2"


def test_an_installed_lightbed_is_not_copied(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightbed, "__file__", "/somewhere/site-packages/lightbed/__init__.py")
    code = Code.freeze(here / "many")
    assert code.variables == {}
    assert not (code.folder / "lightbed").exists()
    assert Code.freeze(here / "many").folder == code.folder
