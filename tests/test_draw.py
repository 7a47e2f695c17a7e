"""The drawing functions: what stands in the pictures, and that all of it can be read."""

import math
import string
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from lightbed.draw.classes import confusion_matrix, label_scores, precision_recall
from lightbed.draw.curves import curves, main_metric
from lightbed.draw.figure import DPI, RIGHT, WRONG, fit_titles, new_figure, pixels, save, shorten_apart, text_width
from lightbed.draw.grid import captioned, image_grid, scale
from lightbed.draw.panel import Panel
from lightbed.draw.panels import draw
from lightbed.metrics.classification import MultilabelScores, confusion
from lightbed.metrics.curves import PrecisionRecall

FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def overlapping(figure: Figure, found: list[Text]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other by more than a pixel, and texts that leave the picture."""
    figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in found if text.get_text().strip()]
    width, height = figure.get_size_inches() * DPI
    outside = [(a, "outside") for a, x in boxes if x.x0 < -1 or x.y0 < -1 or x.x1 > width + 1 or x.y1 > height + 1]
    covered = [
        (a, b)
        for (a, x), (b, y) in combinations(boxes, 2)
        if min(x.x1, y.x1) - max(x.x0, y.x0) > 1 and min(x.y1, y.y1) - max(x.y0, y.y0) > 1
    ]
    return outside + covered


def color_of(name: str) -> tuple[int, ...]:
    return tuple(int(name[i : i + 2], 16) for i in (1, 3, 5))


def has_color(image: np.ndarray, name: str) -> bool:
    return bool((np.abs(image.astype(int) - color_of(name)).max(-1) <= 2).any())


# -- panels and the grid -----------------------------------------------------------------------------------------------


def panel(label: int, truth: int | None, classes: list[str] = FASHION, size: tuple[int, ...] = (1, 28, 28)) -> Panel:
    scores = torch.full((len(classes),), 0.1)
    scores[label] = 0.876
    target = None if truth is None else {"label": torch.tensor(truth)}
    image = torch.randint(0, 256, size, dtype=torch.uint8)
    return draw(image, {"label": torch.tensor(label), "scores": scores}, target, classes)


def test_titles_say_what_is_right_and_what_is_not() -> None:
    assert (panel(9, 9).title, panel(9, 9).color) == ("Ankle boot, right", RIGHT)
    assert (panel(0, 6).title, panel(0, 6).color) == ("not T-shirt/top but Shirt", WRONG)
    assert panel(0, None).title == "T-shirt/top 88%"


def test_titles_of_several_labels() -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    prediction = {"label": torch.tensor([True, False, True]), "scores": torch.tensor([0.9, 0.2, 0.8])}
    classes = ["sun", "sea", "tree"]
    assert draw(image, prediction, {"label": torch.tensor([1.0, 0, 1])}, classes).title == "sun + tree, right"
    assert draw(image, prediction, {"label": torch.tensor([0.0, 0, 0])}, classes).title == "not sun + tree but none"


@pytest.mark.parametrize("channels", [1, 3])
def test_panel_keeps_the_image(channels: int) -> None:
    image = torch.arange(channels * 12, dtype=torch.uint8).view(channels, 3, 4)
    drawn = draw(image, {"label": torch.tensor(0), "scores": torch.ones(1)}, None, ["x"]).image
    assert drawn.shape == (3, 4, 3)
    assert np.array_equal(drawn.transpose(2, 0, 1)[:channels], image.numpy())


def test_small_images_stay_sharp_squares() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(scale(image, 262, 262), np.kron(image, np.ones((32, 32, 1), np.uint8)))
    assert scale(np.zeros((600, 400, 3), np.uint8), 300, 300).shape == (300, 200, 3)
    assert scale(np.zeros((1, 5000, 3), np.uint8), 100, 100).shape == (1, 100, 3)


def test_grid_of_36_is_6_by_6_in_blue_and_red() -> None:
    panels = [panel(i % 10, i % 10 if i % 3 else (i + 1) % 10) for i in range(36)]
    figure = image_grid(panels, "Predictions", "run", "36 of 100 images")
    assert len({round(image.ox) for image in figure.images}) == 6
    assert len({round(image.oy) for image in figure.images}) == 6
    image = pixels(figure)
    assert has_color(image, RIGHT)
    assert has_color(image, WRONG)
    assert not overlapping(figure, figure.texts)
    first = figure.images[0]
    assert np.array_equal(first.get_array()[1:-1, 1:-1], scale(panels[0].image, 260, 260))


@pytest.mark.parametrize(("count", "size"), [(1, (3, 300, 300)), (2, (1, 8, 8)), (7, (3, 90, 160)), (100, (1, 28, 28))])
def test_grid_of_any_number(count: int, size: tuple[int, ...]) -> None:
    figure = image_grid([panel(i % 10, 0, size=size) for i in range(count)], "Predictions", "run", "text")
    assert len(figure.images) == count
    assert not overlapping(figure, figure.texts)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.text(string.printable[:95], min_size=1, max_size=60), min_size=2, max_size=6))
def test_titles_fit_whatever_the_classes_are_called(names: list[str]) -> None:
    titles = [panel(i, j, names).title for i in range(len(names)) for j in range(len(names))]
    fitted, size = fit_titles(new_figure(1, 1), titles, 1.75)
    assert 6 <= size <= 9
    for text in fitted:
        assert text.count("\n") <= 1
        assert text_width(new_figure(1, 1), text, size) <= 1.75 + 1e-6


def test_captioned_picture_has_the_image_below_its_title() -> None:
    drawn = panel(3, None, size=(3, 400, 500))
    image = captioned(drawn)
    assert image.shape[1] == 500
    assert np.array_equal(image[-400:], drawn.image)
    assert (image[:-400] < 128).any(), "the title"
    assert captioned(panel(3, None, size=(1, 8, 8))).shape[1] == 320


def test_save_writes_the_picture_as_it_is(tmp_path) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save(image, tmp_path / "new" / "x.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "x.png")), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]


# -- confusion matrix --------------------------------------------------------------------------------------------------


def random_matrix(count: int, images: int = 3000) -> np.ndarray:
    generator = torch.Generator().manual_seed(count)
    truth = torch.randint(0, count, (images,), generator=generator)
    lucky = torch.rand(images, generator=generator) < 0.7
    guess = torch.randint(0, count, (images,), generator=generator)
    return confusion(torch.where(lucky, truth, guess), truth, count).numpy()


def test_confusion_matrix_shows_the_counts_in_their_cells() -> None:
    matrix = random_matrix(10)
    figure = confusion_matrix(matrix, FASHION, "Confusion matrix", "run", "test split")
    figure.canvas.draw()
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts if text.get_position()[0] <= 9}
    for i, j in np.ndindex(10, 10):
        assert cells[(j, i)] == f"{matrix[i, j]:,}"
    recalls = [text.get_text() for text in axes.texts if text.get_text().endswith("%")]
    assert recalls == [f"{matrix[i, i] / matrix[i].sum():.1%}" for i in range(10)]
    assert [label.get_text() for label in axes.get_xticklabels()] == FASHION
    assert axes.get_yticklabels()[9].get_text() == f"Ankle boot ({matrix[9].sum():,})"
    assert np.allclose(axes.images[0].get_array() ** 2, matrix / matrix.sum(1, keepdims=True))


@pytest.mark.parametrize(
    ("count", "name"), [(2, "class {}"), (10, "a long name of class {}"), (25, "{}"), (26, "{}"), (150, "c{}")]
)
def test_confusion_matrix_is_legible(count: int, name: str) -> None:
    figure = confusion_matrix(
        random_matrix(count), [name.format(i) for i in range(count)], "Confusion matrix", "run", "text"
    )
    figure.canvas.draw()
    (axes,) = figure.axes
    counts = [text for text in axes.texts if isinstance(text.get_position()[0], int)]
    assert len(counts) == (count**2 if count <= 25 else 0)
    around = [*axes.get_yticklabels(), *(text for text in axes.texts if text not in counts), *figure.texts]
    assert not overlapping(figure, around)
    assert min(label.get_fontsize() for label in axes.get_yticklabels()) >= 5.5
    assert max(figure.get_size_inches()) < 16


def test_a_class_without_images_has_no_recall() -> None:
    figure = confusion_matrix(np.array([[3, 1], [0, 0]]), ["a", "b"], "Confusion matrix", "x")
    assert [text for text in texts(figure) if text in ("75.0%", "-")] == ["75.0%", "-"]


# -- precision and recall ----------------------------------------------------------------------------------------------


def scored(count: int, images: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    truth = torch.randint(0, count, (images,), generator=generator)
    logits = torch.randn(images, count, generator=generator)
    logits[torch.arange(images), truth] += 1.5
    return logits.softmax(1), torch.nn.functional.one_hot(truth, count).bool()


def curve(count: int, **changes: int) -> dict[str, torch.Tensor]:
    metric = PrecisionRecall(count, **changes)
    metric.update(*scored(count))
    return metric.compute()


def test_legend_has_each_class_with_its_average_precision() -> None:
    figure = precision_recall(curve(10, bins=20001), FASHION, "Precision and recall", "run", "text")
    scores, truth = scored(10)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    values = average_precision_score(truth.numpy(), scores.numpy(), average=None)
    expected = dict(zip(FASHION, values, strict=True))
    found = {line.split("  ")[1]: float(line.split("  ")[0]) for line in legend}
    assert found.pop("mean of 10") == pytest.approx(values.mean(), abs=2e-3)
    assert found == pytest.approx(expected, abs=2e-3)
    assert list(found) == sorted(found, key=found.get, reverse=True)


def test_area_under_each_drawn_curve_is_its_average_precision() -> None:
    found = curve(3)
    figure = precision_recall(found, ["a", "b", "c"], "Precision and recall", "run")
    lines = {line.get_label().split("  ")[1]: line.get_xydata() for line in figure.axes[0].lines}
    for i, name in enumerate("abc"):
        x, y = lines[name].T
        assert -np.trapezoid(y, x) == pytest.approx(float(found["average_precision"][i]), abs=1e-9)


def test_of_many_classes_the_lowest_ten_are_named() -> None:
    found = curve(60)
    figure = precision_recall(found, [f"class {i}" for i in range(60)], "Precision and recall", "run", "text")
    legend = figure.axes[0].get_legend()
    assert len(legend.get_texts()) == 11
    lowest = {f"class {i}" for i in found["average_precision"].argsort()[:10].tolist()}
    assert {text.get_text().split("  ")[1] for text in legend.get_texts()[:10]} == lowest
    assert len(figure.axes[0].lines) == 61
    assert not overlapping(figure, [*legend.get_texts(), legend.get_title(), *figure.texts])


def test_a_class_that_never_occurs_is_left_out() -> None:
    metric = PrecisionRecall(3)
    metric.update(torch.rand(20, 3), torch.tensor([[True, False, False], [False, True, False]]).repeat(10, 1))
    figure = precision_recall(metric.compute(), ["a", "b", "never"], "Precision and recall", "run")
    assert not any("never" in text for text in texts(figure))


def test_label_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(200, 4, generator=generator) < 0.4).float()
    logits = (truth - 0.5) * 2 + torch.randn(200, 4, generator=generator)
    metric = MultilabelScores(4)
    metric.update(logits, truth)
    figure = label_scores(metric.counts.numpy(), ["sun", "sea", "tree", "$x$"], "Labels", "run", "200 images")
    precision, recall, f1, support = precision_recall_fscore_support(truth, logits > 0)
    shown = texts(figure)
    for i, name in enumerate(["sun", "sea", "tree", "$x$"]):
        assert f"{name} ({support[i]:,})" in shown
        assert all(f"{value:.3f}" in shown for value in (precision[i], recall[i], f1[i]))
    assert not overlapping(figure, [*figure.axes[0].texts, *figure.axes[0].get_yticklabels(), *figure.texts])


def test_of_many_labels_the_lowest_forty_are_shown() -> None:
    counts = np.random.default_rng(0).integers(1, 50, (4, 90))
    figure = label_scores(counts, [f"label {i}" for i in range(90)], "Labels", "run", "text")
    assert len(figure.axes[0].get_yticklabels()) == 40
    assert "text, the 40 labels with the lowest F1" in texts(figure)


# -- curves ------------------------------------------------------------------------------------------------------------


def rows(epochs: int, *, val: bool = True, nan: tuple[int, ...] = ()) -> list[dict[str, float]]:
    found = []
    for epoch in range(epochs):
        row = {"epoch": epoch, "step": epoch, "train/loss": 1 / (epoch + 1), "train/accuracy": 1 - 0.5 / (epoch + 1)}
        if val:
            peak = 0.9 - 0.001 * abs(epoch - 7)  # best in the eighth epoch
            row |= {"val/loss": 0.4 + 0.01 * abs(epoch - 5), "val/accuracy": math.nan if epoch in nan else peak}
        found.append(row)
    return found


@pytest.mark.parametrize(("monitor", "mode", "best"), [("val/accuracy", "max", 8), ("val/loss", "min", 6)])
def test_curves_mark_the_best_epoch(monitor: str, mode: str, best: int) -> None:
    figure = curves(rows(20), monitor, mode, "task/run")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    for axes in figure.axes:
        legend = [text.get_text() for text in axes.get_legend().get_texts()]
        assert legend == ["training", "validation", f"best: {best}"]
        mark = next(line for line in axes.lines if line.get_label() == f"best: {best}")
        assert list(mark.get_xdata()) == [best, best]
        assert axes.get_xlabel() == "epoch"
        training = next(line for line in axes.lines if line.get_label() == "training")
        assert list(training.get_xdata()) == list(range(1, 21))
    assert not overlapping(figure, [t for axes in figure.axes for t in (axes.title, *axes.get_legend().get_texts())])


def test_curves_survive_every_kind_of_history() -> None:
    for history in (rows(1), rows(250), rows(5, val=False), rows(9, nan=(3, 7)), rows(4, nan=(0, 1, 2, 3))):
        figure = curves(history, "val/accuracy", "max", "task/run")
        assert pixels(figure).std() > 5
    assert "best: 7" in texts(curves(rows(9, nan=(3, 7)), "val/accuracy", "max", "run"))
    without = texts(curves(rows(5, val=False), "val/accuracy", "max", "run"))
    assert not any(text.startswith("best") for text in without)
    assert "5 epochs, no val/accuracy, so no best epoch" in without
    infinite = [{"epoch": 0, "train/loss": math.inf}]
    assert "no finite loss" in texts(curves(infinite, "val/loss", "min", "run"))


def test_a_single_epoch_is_a_dot_that_can_be_seen() -> None:
    figure = curves(rows(1), "val/accuracy", "max", "run")
    assert all(line.get_marker() == "o" for line in figure.axes[0].lines if line.get_label() == "training")


def test_main_metric_is_the_monitored_one_or_the_first_that_is_no_loss() -> None:
    assert main_metric(rows(2), "val/accuracy") == "accuracy"
    assert main_metric(rows(2), "val/loss") == "accuracy"
    assert main_metric([{"epoch": 0, "train/loss": 1.0, "val/loss_box": 2.0}], "val/loss") is None


def test_names_that_would_be_cut_alike_are_cut_in_the_middle() -> None:
    figure = new_figure(1, 1)
    names = [f"a rather long name of the class number {i}" for i in range(12)]
    cut = shorten_apart(figure, [*names, "road"], 1.8, 8)
    assert len(set(cut)) == 13
    assert cut[-1] == "road"
    assert cut[11].startswith("a rather")
    assert cut[11].endswith("er 11")
    assert all(text_width(figure, text, 8) <= 1.81 for text in cut)
    assert shorten_apart(figure, ["x" * 99, "road"], 1.8, 8)[0].endswith("x…"), "the end is cut where that is enough"
