"""The page of results is made from run folders, and keeps what has no run among them."""

import json
from pathlib import Path

from benchmarks import results


def a_run(folder: Path, words: list[str], metrics: dict[str, float], seed: int = 0) -> None:
    folder.mkdir(parents=True)
    hardware = {"gpus": [], "cores": 2, "isa": "AVX512"}
    record = {"command": ["lightbed", "train", *words], "status": "done", "seconds": 12.4, "seed": seed}
    (folder / "run.json").write_text(json.dumps({**record, "hardware": hardware}))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_a_system_with_a_run_gets_its_figures_and_all_others_keep_theirs(tmp_path):
    a_run(tmp_path / "localizer" / "now", ["experiment=localizer"], {"test/accuracy": 0.5, "test/accuracy_50": 0.25})
    page = "| `localizer` | old |\n| `overfeat` | as it was |\n\n## Benchmarks\n\na table\n"
    lines = results.renewed(page, tmp_path).splitlines()
    (localizer,) = [line for line in lines if line.startswith("| `localizer`")]
    assert "test/accuracy 0.5000, test/accuracy_50 0.2500" in localizer
    assert "| `lightbed train experiment=localizer` | 12 | 2 CPU cores, AVX512 |" in localizer
    assert "| `overfeat` | as it was |" in lines
    assert any(line.startswith("| `segnet` |") and "| no run |" in line for line in lines)
    assert lines[-3:] == ["## Benchmarks", "", "a table"]
    assert results.renewed("\n".join(lines), tmp_path).splitlines() == lines


def test_jobs_that_differ_in_their_seed_alone_share_a_row(tmp_path):
    for kind, values in {"from_scratch": (0.5, 0.7), "fine_tuning": (0.8, 0.8)}.items():
        for seed, value in enumerate(values):
            job = tmp_path / "transfer" / "now" / f"experiment=transfer_{kind},seed={seed}"
            a_run(job, ["-m", "sweep=transfer"], {"test/accuracy": value}, seed)
    rows = [line for line in results.renewed("", tmp_path).splitlines() if line.startswith("| `sweep=transfer`")]
    assert len(rows) == 2
    assert "experiment=transfer_fine_tuning" in rows[0]
    assert "test/accuracy 0.8000 ± 0.0000 over 2 seeds" in rows[0]
    assert "test/accuracy 0.6000 ± 0.1414 over 2 seeds" in rows[1]
