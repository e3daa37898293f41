"""The charts of a report, as SVG that follows the page: its fonts, its light and its dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmsearch.eval.ranks import Ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib draws in these colours; the page has a variable for each, with one value for light and one for dark.
INK, MUTED, GRID, TEXT_TO_IMAGE, IMAGE_TO_TEXT, WRONG = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    TEXT_TO_IMAGE: "--t2i",
    IMAGE_TO_TEXT: "--i2t",
    WRONG: "--wrong",
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be selected, and takes the font of the page
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
HISTOGRAM_EDGES = (1, 2, 4, 6, 11, 21, 51, 101)


@dataclass(frozen=True, slots=True)
class Curve:
    """Recall over k with its 95 % band; `low` and `high` are empty without one."""

    ks: tuple[int, ...]
    recall: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chance: tuple[float, ...]


def recall_chart(text_to_image: Curve, image_to_text: Curve) -> str:
    """Return recall over k, both directions, on a logarithmic axis."""
    with _style("recall"):
        figure, axes = _figure()
        last = max(text_to_image.ks[-1], image_to_text.ks[-1])
        for curve, colour, label in (
            (image_to_text, IMAGE_TO_TEXT, "image to text"),
            (text_to_image, TEXT_TO_IMAGE, "text to image"),
        ):
            if curve.low:
                axes.fill_between(curve.ks, _percent(curve.low), _percent(curve.high), color=colour, alpha=0.16, lw=0)
            axes.plot(curve.ks, _percent(curve.recall), color=colour, lw=2.2, label=label, solid_capstyle="round")
            axes.plot(curve.ks, _percent(curve.chance), color=colour, lw=1.2, ls=(0, (2, 3)))
        axes.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= last]
        axes.set_xticks(ticks, [f"{k:,}" for k in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlim(1, max(last, 2))
        axes.set_ylim(0, 100)
        axes.set_xlabel("answers looked at (k)")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
        axes.legend(frameon=False, loc="upper left", labelcolor=INK, handlelength=1.4)
        return _svg(figure, "recall")


def rank_chart(text_to_image: Ranks, image_to_text: Ranks) -> str:
    """Return where the first right answer stands: the share of queries by rank."""
    with _style("ranks"):
        figure, axes = _figure()
        largest = max(text_to_image.gallery, image_to_text.gallery)
        edges = [edge for edge in HISTOGRAM_EDGES if edge <= largest] + [largest + 2]
        places = np.arange(len(edges) - 1)
        for ranks, colour, label, shift in (
            (text_to_image, TEXT_TO_IMAGE, "text to image", -0.21),
            (image_to_text, IMAGE_TO_TEXT, "image to text", 0.21),
        ):
            share = 100 * np.histogram(ranks.best, edges)[0] / max(len(ranks.best), 1)
            axes.bar(places + shift, share, width=0.38, color=colour, label=label)
        axes.set_xticks(places, [_bin_name(low, high) for low, high in pairwise(edges)])
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("rank of the first right answer")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
        axes.legend(frameon=False, loc="upper right", labelcolor=INK, handlelength=1.0, handleheight=0.8)
        return _svg(figure, "ranks")


def similarity_chart(matching: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> str:
    """Return how the cosines of matching pairs and of other pairs are spread."""
    with _style("similarity"):
        figure, axes = _figure((7.8, 3.2))
        values = np.concatenate([matching, other])
        edges = np.linspace(float(values.min()), float(values.max()) + 1e-6, 61)
        for pairs, colour, label in ((other, WRONG, "other pairs"), (matching, TEXT_TO_IMAGE, "matching pairs")):
            if not len(pairs):
                continue
            share = np.histogram(pairs, edges)[0] / len(pairs)
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.3)
            axes.stairs(share, edges, color=colour, lw=1.6)
            middle = float(np.median(pairs))
            named = f"{label}, median {round(middle, 2) + 0.0:.2f}"  # + 0.0: no -0.00
            axes.annotate(named, (middle, share.max()), (0, 8), textcoords="offset points", ha="center", color=INK)
        axes.set_xlabel("cosine similarity of image and caption")
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])
        axes.set_yticks([])
        return _svg(figure, "similarity")


def _style(name: str) -> AbstractContextManager[None]:
    import matplotlib

    # The salt names clip paths: the same run gives the same file, and two charts of a page do not share a name.
    settings: Any = {**_STYLE, "svg.hashsalt": name}
    return matplotlib.rc_context(settings)


def _figure(size: tuple[float, float] = (6.4, 3.7)) -> tuple[Figure, Axes]:
    # Not pyplot: it would choose a window system, and keep figures alive.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _percent(values: Sequence[float]) -> npt.NDArray[np.float64]:
    return 100 * np.asarray(values, dtype=np.float64)


def _bin_name(low: int, high: int) -> str:
    if high - low == 1:
        return f"{low:,}"
    return f"{low:,}+" if high > HISTOGRAM_EDGES[-1] or high not in HISTOGRAM_EDGES else f"{low:,}-{high - 1:,}"


def _svg(figure: Figure, name: str) -> str:
    """Return the figure as an `<svg>` to stand in a page: no prolog, no metadata, scalable, colours as variables."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', svg, count=1)
    svg = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    svg = re.sub(r"font-family: [^;\"]+", "font-family: var(--sans)", svg)
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]+", r"font: \1px var(--sans)", svg)  # matplotlib before 3.10
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
