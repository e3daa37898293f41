"""A picture of a run: losses and recalls over its epochs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.training.history import Epoch, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _MUTED, _GRID = "#22262b", "#5c636b", "#e2e5e9"
_COLOURS = ("#2f6fb2", "#c2541b", "#5a8f3c", "#7d5ba6", "#8a6d1f")
_STYLE: Any = {
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}


def curves_png(history: History, *, title: str) -> bytes:
    """Return a PNG of the losses, and of the recalls with those before training as epoch 0."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # what the person who trains has set for other pictures is no part of this one
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(9.0, 3.6), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        losses, recalls = figure.subplots(1, 2)
        _draw_losses(losses, history.epochs[1:])
        _draw_recalls(recalls, history)
        figure.suptitle(title.replace("$", r"\$"), fontsize=11)
        target = io.BytesIO()
        figure.savefig(target, format="png")
    return target.getvalue()


def _draw_losses(axes: Axes, epochs: Sequence[Epoch]) -> None:
    names = list(epochs[0].losses) if epochs else []
    numbers = [each.number for each in epochs]
    for name, colour in zip(names, _COLOURS, strict=False):
        axes.plot(numbers, [each.losses[name] for each in epochs], color=colour, label=name, marker=".")
    _finish(axes, "Loss, as weighted")
    if names:
        axes.legend(frameon=False)


def _draw_recalls(axes: Axes, history: History) -> None:
    epochs = history.epochs
    numbers = [each.number for each in epochs]
    lines = {
        "mean of six": [each.recalls.mean for each in epochs],
        "text to image, R@1": [each.recalls.text_to_image[0] for each in epochs],
        "image to text, R@1": [each.recalls.image_to_text[0] for each in epochs],
    }
    for (label, values), colour in zip(lines.items(), (_INK, *_COLOURS), strict=False):
        axes.plot(numbers, [100 * value for value in values], color=colour, label=label, marker=".")
    if (best := history.best) is not None:
        axes.axvline(best.number, color=_MUTED, lw=1, ls=":", label=f"kept: epoch {best.number}")
    axes.set_ylim(0, 100)
    _finish(axes, "Recall on validation, %")
    axes.legend(frameon=False)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, color=_MUTED, loc="left")
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
