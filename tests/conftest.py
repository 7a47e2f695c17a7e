"""Fixtures that all tests share."""

import os
import urllib.request
from pathlib import Path

import hypothesis
import pytest

# the same examples each time: what is found depends on the code alone, not on the day
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("steady")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("LIGHTBED_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data sets in {folder}; set LIGHTBED_TEST_DATA to a folder that has them")
    return folder


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Caches of a test go into its own folder, never into the home of whoever runs it; its proxies end with it."""
    monkeypatch.setenv("LIGHTBED_CACHE", str(tmp_path / "cache"))
    urllib.request.install_opener(None)  # type: ignore[arg-type] - urllib remembers the proxies of its first use


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, two epochs of a tiny network on the digits; tests read it and never write there."""
    from lightbed.cli import main

    outputs = tmp_path_factory.mktemp("digits")
    folder = outputs / "classifier" / "digits"
    words = ["model.channels=[8,16]", "trainer.max_epochs=2", "trainer.accelerator=cpu", "callbacks.pictures=null"]
    assert main(["train", *words, f"hydra.run.dir={folder}", f"paths.outputs={outputs}", "optimizer.lr=0.01"]) == 0
    return folder
