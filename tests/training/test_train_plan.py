"""What a run is to do follows from what was asked for, what the starting model needs, and what was begun before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_fitting import _ten_pairs  # noqa: E402
from tiny_dual_encoder import tiny_dual_encoder  # noqa: E402

from mmsearch.errors import UsageError  # noqa: E402
from mmsearch.training.batches import BatchConfig  # noqa: E402
from mmsearch.training.fitting import FitConfig, Loop, freeze  # noqa: E402
from mmsearch.training.plan import Found, Plan, TrainOptions, check_early, fit_config, planned  # noqa: E402

FOUND = Found("start", "d", "s", photos=100, objectives="itc,itm", unlock="text", views=10)
ASKED = TrainOptions(source="pairs.csv", out=Path("out"))


def plan(asked: TrainOptions = ASKED, earlier: Plan | None = None) -> Plan:
    return planned(asked, earlier, found=FOUND, say=lambda line: None)


def test_what_is_not_asked_for_is_what_is_usual_for_the_starting_model() -> None:
    assert (plan().objectives, plan().unlock, plan().tower_rate, plan().micro_batch) == ("itc,itm", "text", None, None)
    assert plan(replace(ASKED, unlock="both")).unlock == "both"


def test_no_more_views_are_kept_than_epochs_can_show() -> None:
    assert plan(replace(ASKED, epochs=3)).views == 3
    assert plan(replace(ASKED, epochs=30)).views == 10


@pytest.mark.parametrize(
    ("unlock", "image", "text"), [("none", 0, 0), ("image", 2e-5, 0), ("text", 0, 2e-5), ("both", 2e-5, 2e-5)]
)
def test_a_locked_tower_has_no_rate(unlock: str, image: float, text: float) -> None:
    rate = None if unlock == "none" else 2e-5
    config = fit_config(plan(replace(ASKED, unlock=unlock, tower_rate=rate)), captions=5, fresh=True)
    assert (config.image_rate, config.text_rate) == (image, text)


def test_without_a_rate_of_their_own_towers_learn_in_proportion_to_the_heads() -> None:
    slow, fast = (fit_config(plan(replace(ASKED, rate=rate)), captions=5, fresh=True) for rate in (1e-4, 1e-3))
    assert 0 < slow.text_rate < slow.head_rate
    assert fast.text_rate == pytest.approx(10 * slow.text_rate)


def test_towers_wait_for_a_new_head_even_at_its_rate() -> None:
    model = tiny_dual_encoder()
    batches = BatchConfig(images=5, captions_per_image=1)
    config = FitConfig(head_rate=1e-3, image_rate=1e-3, text_rate=1e-3, warm_epochs=2.0, batches=batches)
    freeze(model, config)
    loop = Loop(model, _ten_pairs(), config, None)
    rates = []
    for _ in range(6):
        loop.step(np.arange(5))
        rates.append({bool(group["tower"]): group["lr"] for group in loop.optimizer.param_groups})
    assert [each[True] > 0 for each in rates] == [False, False, False, False, True, True]
    assert all(each[False] > 0 for each in rates)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unlock": "all"}, "--unlock is 'all', expected none, image, text or both"),
        ({"tower_rate": 0.0}, "--tower-lr is 0"),
        ({"micro_batch": 0}, "--micro-batch is 0"),
    ],
)
def test_values_that_no_run_can_have_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(ASKED, **changed)  # type: ignore[arg-type]


def test_a_rate_for_towers_that_are_all_locked_is_refused() -> None:
    with pytest.raises(UsageError, match="--tower-lr is the rate at which towers learn, and --unlock none lets none"):
        plan(replace(ASKED, unlock="none", tower_rate=2e-5))


def test_what_no_data_can_make_right_is_refused_without_any() -> None:
    def early(asked: TrainOptions, earlier: Plan | None = None) -> None:
        check_early(asked, earlier, start="s", objectives="itc,itm", unlock="text")

    early(replace(ASKED, batch=100_000))
    with pytest.raises(UsageError, match="--unlock none leaves the matching head alone"):
        early(replace(ASKED, unlock="none", objectives="itc"))
    begun = plan(replace(ASKED, batch=80))
    early(replace(ASKED, resume=True, batch=80), begun)
    early(replace(ASKED, resume=True, batch=100_000), plan(replace(ASKED, batch=100_000)))  # there are 100 photos
    with pytest.raises(UsageError, match="--batch was 80, is 40"):
        early(replace(ASKED, resume=True, batch=40), begun)
    with pytest.raises(UsageError, match="--epochs was 12, is 3"):
        early(replace(ASKED, resume=True, epochs=3), begun)
    with pytest.raises(UsageError, match="the model of --from changed"):
        early(replace(ASKED, resume=True), replace(begun, start="other"))


def test_checkpointing_is_kept_by_a_run_that_goes_on() -> None:
    begun = plan(replace(ASKED, checkpointing=True))
    assert plan(ASKED, begun).checkpointing
