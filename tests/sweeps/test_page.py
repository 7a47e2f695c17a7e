"""The report's page: what its charts show, and that it needs nothing but itself."""

import base64
import io
import json
import math
import re
import shutil
from pathlib import Path
from statistics import mean

import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightbed.draw.figure import save
from lightbed.sweeps import charts, page, show
from lightbed.sweeps.collect import find_runs
from lightbed.sweeps.compare import Comparison, compare


def write_run(folder: Path, lr: float, seed: int, accuracy: float, seconds: float, status: str = "done") -> None:
    """A run folder with three epochs whose last is the best."""
    config = {"optimizer": {"lr": lr}, "seed": seed, "task": {"monitor": "val/accuracy"}}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump([f"optimizer.lr={lr}", f"seed={seed}"]))
    memory = {"process": 900.0 + seed, "child": 20.0, "gpu": 2048.0}
    record = {"status": status, "seconds": seconds, "choices": {"model": "cnn"}, "memory": memory}
    (folder / "run.json").write_text(json.dumps(record))
    rows = [f"{i},{i},1.0,{1 - accuracy * i / 2},{1.1 - accuracy * i / 2},{accuracy * i / 2}" for i in range(3)]
    (folder / "metrics.csv").write_text(
        "\n".join(["epoch,step,seconds,train/loss,val/loss,val/accuracy", *rows]) + "\n"
    )
    if status == "done":
        (folder / "metrics.json").write_text(json.dumps({"epoch": 2, "test/accuracy": accuracy}))
    save(np.full((400, 1600, 3), round(250 * accuracy), np.uint8), folder / "pictures" / "predictions.png")


@pytest.fixture
def table(tmp_path: Path) -> Comparison:
    """Three learning rates by two seeds, the best of them the slowest; one more run was pruned."""
    for lr, accuracy, seconds in ((0.001, 0.5, 10.0), (0.01, 0.9, 20.0), (0.1, 0.7, 12.0)):
        for seed in (0, 1):
            write_run(tmp_path / f"lr={lr},seed={seed}", lr, seed, accuracy + 0.02 * seed, seconds)
    write_run(tmp_path / "lr=1.0,seed=0", 1.0, 0, 0.2, 3.0, status="pruned")
    return compare(find_runs([str(tmp_path)]))


def test_charts_are_what_plotly_knows(table: Comparison) -> None:
    for chart in (charts.curves(table, "loss"), charts.against_time(table), charts.parallel(table)):
        assert chart is not None
        go.Figure(chart)  # raises for a name or value that there is not
        json.dumps(chart, allow_nan=False)


def test_curves_are_the_histories_with_a_gap_between_seeds(table: Comparison) -> None:
    chart = charts.curves(table, "accuracy")
    assert chart is not None
    best = next(trace for trace in chart["data"] if trace["meta"] == {"row": 0, "stage": "val"})
    assert best["x"] == [1, 2, 3, None, 1, 2, 3]
    assert best["y"] == [0.0, 0.45, 0.9, None, 0.0, 0.46, 0.92]
    assert best["text"][0] == "lr=0.01, seed=0"
    assert charts.curves(table, "recall") is None


def test_long_histories_are_thinned_and_keep_their_last_epoch(table: Comparison) -> None:
    table.rows[0].runs[0].history = [{"epoch": i, "val/loss": i / 7} for i in range(1000)]
    chart = charts.curves(table, "loss")
    assert chart is not None
    x = next(trace for trace in chart["data"] if trace["meta"] == {"row": 0, "stage": "val"})["x"]
    assert len(x) < 310
    assert 1000 in x


def test_parallel_coordinates_have_the_settings_and_the_sorted_metric(table: Comparison) -> None:
    chart = charts.parallel(table)
    assert chart is not None
    rate, accuracy = chart["data"][0]["dimensions"]
    assert rate["label"] == "optimizer.lr (log)"
    assert rate["values"] == pytest.approx([-2, -1, -3]), "best first; what was pruned has no tested value"
    assert rate["ticktext"] == ["0.001", "0.01", "0.1"]
    assert accuracy["values"] == pytest.approx([0.91, 0.71, 0.51])


def test_the_front_is_what_no_other_row_beats_in_both(table: Comparison) -> None:
    chart = charts.against_time(table)
    assert chart is not None
    front, dots = chart["data"]
    assert dots["x"] == [20, 12, 10]
    assert front["x"] == [10, 12, 20, 20]
    assert front["y"] == pytest.approx([0.51, 0.71, 0.91, 0.91])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1), st.sampled_from(["max", "min"]))
def test_no_point_of_a_front_is_beaten(points: list[tuple[int, int]], mode: str) -> None:
    sign = 1 if mode == "max" else -1
    kept = charts.front([(float(cost), float(value)) for cost, value in points], mode)
    beats = [
        [(a[0] <= b[0] and sign * a[1] >= sign * b[1]) and a != b for b in points] for a in points
    ]  # a is nowhere worse than b
    unbeaten = {points[j] for j in range(len(points)) if not any(row[j] for row in beats)}
    assert {points[i] for i in kept} == unbeaten
    assert len(kept) == len(unbeaten)


def test_the_page_has_all_parts_and_small_pictures(table: Comparison) -> None:
    text = page.as_html(table)
    assert text.count("plotly.js v") == 1
    assert "{{" not in text.partition('<script id="plotly">')[0]
    figures = json.loads(text.partition('id="figures">')[2].partition("</script>")[0])
    assert list(figures) == ["loss", "metric", "time", "parallel"]
    assert "The best run, test/accuracy 0.9200" in text
    assert "The worst run, test/accuracy 0.5000" in text
    pictures = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", text)
    assert len(pictures) == 2
    with Image.open(io.BytesIO(base64.b64decode(pictures[0]))) as picture:
        assert picture.size == (1000, 250)
    assert "pruned" in text
    assert "Not done" not in text, "what a search gave up is no failure"


def test_columns_of_numbers_are_sorted_as_such(table: Comparison) -> None:
    texts = ["0.91 ± 0.01", "901 MiB", "2.00 GiB", "1e-05", "2 done, 1 failed", "[4]", "nan"]
    found = [page._value(text) for text in texts]
    assert found[:6] == [0.91, 901, 2048, 1e-5, None, None]
    text = page.as_html(table)
    assert "<th class=number>optimizer.lr</th>" in text
    assert "<th>status</th>" in text
    assert 'data-value="2048.0" title="GPU memory">2.00 GiB</td>' in text


def test_time_and_peak_memory_are_in_every_form(table: Comparison) -> None:
    assert show.heads(table)[-4:] == ["seconds", "memory", "GPU memory", "status"]
    assert "| 20.0 | 901 MiB | 2.00 GiB | done |" in show.as_markdown(table, None)
    assert "20.0,901.0,2048.0,done," in show.as_csv(table)
    assert mean(run.seconds or math.nan for run in table.rows[0].runs) == table.rows[0].seconds
    assert "values of the epoch whose weights were tested: the last, which is the best by val/accuracy" in show.notes(
        table
    )


def test_an_axis_of_words_and_one_value(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.1, 0, 0.5, 1.0)
    only = compare(find_runs([str(tmp_path)]))
    assert charts.parallel(only) is None
    assert charts.against_time(only) is None
    axis = charts._dimension("model", ["cnn", "", "dnn"])
    assert [axis["ticktext"][i] for i in axis["values"]] == ["cnn", "(none)", "dnn"]
    assert charts._range([2.0, 2.0]) == {"range": [1.5, 2.5]}


@pytest.mark.slow
def test_a_browser_draws_the_page_without_a_network(table: Comparison, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    (tmp_path / "report.html").write_text(page.as_html(table))
    told: list[str] = []
    with sync_api.sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        view = chromium.new_page(viewport={"width": 390, "height": 800}, offline=True)
        view.set_default_timeout(300_000)  # a busy machine
        view.on("pageerror", lambda error: told.append(str(error)))
        view.on("request", lambda request: request.url.startswith("http") and told.append(request.url))
        view.goto(f"file://{tmp_path / 'report.html'}")
        view.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 4")
        assert view.evaluate("document.documentElement.scrollWidth") == 390, "nothing is cut off on a phone"
        view.click("th:has-text('seconds')")
        first = "document.querySelector('tbody tr').cells[1].textContent"
        assert view.evaluate(first) == "1.0", "the fastest is the first now"
        view.uncheck("#train")
        view.check("#log")
        view.click(".legend button")
        shown = "document.getElementById('loss').data.map(trace => trace.visible)"
        assert sum(view.evaluate(shown)) == 3, "validation of all but the first row"
        assert view.evaluate("document.getElementById('loss').layout.yaxis.type") == "log"
        chromium.close()
    assert not told
