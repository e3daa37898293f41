"""A batch in parts gives the gradients of the whole batch, random numbers included."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import openclip_models  # noqa: E402, F401 - makes open_clip importable

pytest.importorskip("open_clip")

from tiny_clip import noise_pairs, tiny_clip, write_tiny_clip  # noqa: E402
from tiny_dual_encoder import tiny_dual_encoder  # noqa: E402

from mmsearch.training import fitting  # noqa: E402
from mmsearch.training.batches import BatchConfig, Dataset  # noqa: E402
from mmsearch.training.cached_gradients import CachedGradients  # noqa: E402
from mmsearch.training.fitting import FitConfig, Loop, freeze  # noqa: E402
from mmsearch.training.two_towers import TwoTowers  # noqa: E402
from mmsearch.training.word_pieces import WordPieces  # noqa: E402

PAIRS = 10
Gradients = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take longer here than all there is to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip") / "vit")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order differ by far more in bfloat16."""
    monkeypatch.setattr(fitting, "autocast", lambda _: nullcontext())


def gradients(
    model: TwoTowers, data: Dataset, *, micro_batch: int | None, image_rate: float = 1e-3, warm_epochs: float = 0.0
) -> Gradients:
    """The gradients of one step on all photos of `data`, by parameter."""
    batches = BatchConfig(images=PAIRS, captions_per_image=2, word_drop=0.0, teacher_share=0.0)
    config = FitConfig(
        warm_epochs=warm_epochs, clip=1e9, image_rate=image_rate, micro_batch=micro_batch, batches=batches
    )
    freeze(model, config)
    loop = Loop(model, data, config, None)
    loop.step(np.arange(PAIRS))
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def assert_equal(parts: Gradients, whole: Gradients) -> None:
    assert parts.keys() == whole.keys()
    largest = max(float(each.abs().max()) for each in whole.values())
    for name, gradient in whole.items():
        assert torch.allclose(parts[name], gradient, rtol=1e-3, atol=1e-5 * largest), name


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 100])
def test_parts_of_any_size_give_the_gradients_of_the_whole_batch(vit: Path, micro_batch: int) -> None:
    whole = gradients(tiny_clip(vit), noise_pairs(PAIRS), micro_batch=None)
    assert any(name.startswith("image_tower") for name in whole) and any(name.startswith("matcher") for name in whole)
    assert_equal(gradients(tiny_clip(vit), noise_pairs(PAIRS), micro_batch=micro_batch), whole)


def test_a_locked_tower_gets_no_gradient_in_parts_either(vit: Path) -> None:
    found = gradients(tiny_clip(vit), noise_pairs(PAIRS), micro_batch=3, image_rate=0.0)
    assert not [name for name in found if name.startswith("image_tower")]
    assert_equal(found, gradients(tiny_clip(vit), noise_pairs(PAIRS), micro_batch=None, image_rate=0.0))


@pytest.mark.parametrize(
    ("image_rate", "warm_epochs", "image_runs", "text_runs"),
    [(1e-3, 0.0, 2, 2), (0.0, 0.0, 1, 2), (1e-3, 1.0, 1, 1)],
    ids=["both learn", "a locked tower", "both wait for a new head"],
)
def test_a_tower_that_gets_no_gradient_runs_once(
    vit: Path, image_rate: float, warm_epochs: float, image_runs: int, text_runs: int
) -> None:
    model = tiny_clip(vit)
    shown = {"image_tower": 0, "text_tower": 0}

    def count(name: str) -> None:
        def hook(module: object, inputs: tuple[torch.Tensor, ...], outputs: object) -> None:
            shown[name] += len(inputs[0])

        model.get_submodule(name).register_forward_hook(hook)

    for name in shown:
        count(name)
    gradients(model, noise_pairs(PAIRS), micro_batch=3, image_rate=image_rate, warm_epochs=warm_epochs)
    assert shown == {"image_tower": image_runs * PAIRS, "text_tower": text_runs * 2 * PAIRS}


def test_a_dual_encoder_of_our_own_learns_in_parts_as_well() -> None:
    rng = np.random.default_rng(0)
    pieces = WordPieces(torch.from_numpy(rng.integers(200, 1000, (2 * PAIRS, 6))), torch.full((2 * PAIRS,), 6))
    maps = rng.normal(0, 6, (PAIRS, 4, 4, 32)).astype(np.float16)
    data = Dataset([maps], pieces, noise_pairs(PAIRS).captions, None)

    def without_dropout() -> TwoTowers:
        model = tiny_dual_encoder()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.image_head.pool.drop = 0.0
        return model

    whole = gradients(without_dropout(), data, micro_batch=None)
    assert_equal(gradients(without_dropout(), data, micro_batch=4), whole)


def test_what_was_random_on_the_way_there_is_the_same_on_the_way_back() -> None:
    weight = torch.nn.Parameter(torch.tensor(2.0))

    def side(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return weight * rows * torch.rand_like(rows), rows

    parts = CachedGradients(2, nullcontext)
    found, _ = parts.run(side, torch.randn(7, 3))
    torch.rand(1)  # as a matching head with dropout does
    after = torch.get_rng_state()
    torch.autograd.backward(found.sum())
    parts.backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, found.detach().sum() / 2)
    assert torch.equal(torch.get_rng_state(), after)
    assert len(set((found.detach() / found.detach().sum()).flatten().tolist())) == 21


def test_autocast_finds_its_way_back_to_weights_that_parts_have_used() -> None:
    linear = torch.nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        parts = CachedGradients(2, lambda: torch.autocast("cpu", torch.bfloat16))
        found, _ = parts.run(lambda rows: (linear(rows), rows), torch.randn(4, 4))
        outside = linear(torch.randn(4, 4))
    torch.autograd.backward(outside.float().sum())
    assert linear.weight.grad is not None
    first = linear.weight.grad.clone()
    torch.autograd.backward(found.float().sum())
    parts.backward()
    assert not torch.equal(linear.weight.grad, first)
