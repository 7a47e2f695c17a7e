"""OverFeat's point: all windows of an image in one pass, against cutting them out and classifying each."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.paired import Row, Setting
from lightbed.draw.figure import FAINT, INK, SERIES, headline, new_figure, pixels, place, save
from lightbed.models.overfeat import OverFeat, windows

SIDES = (32, 48, 64, 96, 128, 192)
ROUNDS = 5
PICTURE = Path("docs/images/overfeat.png")


@torch.no_grad()
def passes(setting: Setting) -> list[Row]:  # noqa: ARG001 - all benchmarks are given it
    """Milliseconds an image of both ways by its side, in turn; the plot goes to docs/images."""
    torch.manual_seed(0)
    net = OverFeat(10, margin=0).eval()
    once, each, counts = [], [], []
    for side in SIDES:
        image = torch.rand(1, 3, side, side)
        cut = windows(image, net.window, net.stride).flatten(0, 2)
        counts.append(len(cut))
        difference = (net.maps(image)[0].flatten(2)[0].T - net.maps(cut)[0].flatten(1)).abs().max()
        if float(difference) > 1e-4:
            raise RuntimeError(f"the two ways differ by {float(difference):.1e} on {side}x{side}")
        pair: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            pair[0].append(seconds(net.maps, image))
            pair[1].append(seconds(net.maps, windows(image, net.window, net.stride).flatten(0, 2)))
        once.append(1000 * median(pair[0]))
        each.append(1000 * median(pair[1]))
    draw(once, each, counts)
    factor = each[-1] / once[-1]
    what = f"OverFeat, {SIDES[-1]}x{SIDES[-1]} pixels, {counts[-1]:,} windows: cut out / one pass"
    first = f"OverFeat, {SIDES[0]}x{SIDES[0]} pixels, 1 window: cut out / one pass"
    return [
        Row(first, f"{each[0] / once[0]:.2f}", ""),
        Row(what, f"{factor:.1f} ({each[-1]:.0f} ms / {once[-1]:.1f} ms)", "at least 10", factor >= 10),
    ]


def seconds(function: Callable[..., Any], images: torch.Tensor) -> float:
    start = time.perf_counter()
    function(images)
    return time.perf_counter() - start


def draw(once: list[float], each: list[float], counts: list[int]) -> None:
    """Both curves over the image's side, on logarithmic axes."""
    figure = new_figure(6.4, 4.4)
    headline(figure, "One pass over the image, or every window by itself", "OverFeat's small network, windows of 32x32")
    axes = place(figure, 0.85, 0.75, 5.2, 2.8)
    for values, name, color in ((each, "windows cut out", SERIES[1]), (once, "one pass", SERIES[0])):
        axes.plot(SIDES, values, marker="o", markersize=4, color=color, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xticks(SIDES, [f"{side}\n{count:,}" for side, count in zip(SIDES, counts, strict=True)])
    axes.set_xlabel("side of the image in pixels, number of windows", size=9, color=INK)
    axes.set_ylabel("milliseconds an image", size=9, color=INK)
    axes.legend(frameon=False, fontsize=9, labelcolor=FAINT)
    save(pixels(figure), PICTURE)
