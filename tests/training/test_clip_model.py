"""An open_clip model as training sees it: locked towers stay as they are, and batches say nothing to their photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import openclip_models  # noqa: E402

pytest.importorskip("open_clip")
pytest.importorskip("onnxscript")

from tiny_clip import CONFIGS, noise_pairs, tiny_clip, write_tiny_clip  # noqa: E402

from mmsearch.errors import ModelError  # noqa: E402
from mmsearch.model_manifest import load_model_manifest  # noqa: E402
from mmsearch.openclip import load_openclip  # noqa: E402
from mmsearch.training.architecture import with_fusion  # noqa: E402
from mmsearch.training.batches import BatchConfig  # noqa: E402
from mmsearch.training.clip_model import load_clip  # noqa: E402
from mmsearch.training.fitting import FitConfig, Lines, Loop, fit, freeze  # noqa: E402
from mmsearch.training.objectives import Objectives  # noqa: E402
from mmsearch.training.starting import starting  # noqa: E402
from mmsearch.training.weight_average import blend  # noqa: E402

PAIRS = 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take longer here than all there is to compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("clip")
    return {kind: write_tiny_clip(root / kind, kind) for kind in CONFIGS}


def config(**changes: object) -> FitConfig:
    batches = BatchConfig(images=PAIRS, captions_per_image=2, word_drop=0.0, teacher_share=0.0)
    return FitConfig(**{"warm_epochs": 0.0, "batches": batches, **changes})  # type: ignore[arg-type]


def test_embeddings_are_open_clips_own(directories: dict[str, Path]) -> None:
    manifest = load_model_manifest(directories["vit"])
    model, clip = load_clip(manifest), load_openclip(manifest)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    ids = torch.tensor([[49406, 320, 1125, 49407] + [0] * 12])
    with torch.no_grad():
        photos, states = model.look_at(pixels)
        texts, words = model.read(ids, (ids > 0).long(), learn=False)
        assert torch.allclose(photos, clip.encode_image((pixels / 255 - 0.5) / 0.5, normalize=True), atol=1e-5)
        assert torch.allclose(texts, clip.encode_text(ids, normalize=True), atol=1e-5)
    assert states.shape == (3, 16, 32) and words.shape == (1, 16, 32)
    assert float(model.log_scale.detach()) == float(clip.logit_scale.detach()) == 3.0


@pytest.mark.parametrize(("kind", "width"), [("vit", 5), ("padding", 16)])
def test_captions_are_as_wide_as_the_tower_needs_them(directories: dict[str, Path], kind: str, width: int) -> None:
    pieces = starting(str(directories[kind])).pieces(["a dog", "a red dog", "two dogs run over a field of grass"])
    ids, mask = pieces.batch(torch.arange(2))
    assert ids.shape == mask.shape == (2, width)
    assert mask.sum(1).tolist() == [4, 5]
    assert ids[0, :4].tolist() == [49406, 320, 1929, 49407] and not ids[0, 4:].any()


@pytest.mark.parametrize(("image", "text"), [(False, False), (True, False), (False, True), (True, True)])
def test_a_locked_tower_stays_as_it_is_bit_by_bit(directories: dict[str, Path], image: bool, text: bool) -> None:
    model = tiny_clip(directories["vit"])
    before = {name: each.clone() for name, each in model.state_dict().items()}
    asked = config(image_rate=1e-3 * image, text_rate=1e-3 * text)
    freeze(model, asked)
    loop = Loop(model, noise_pairs(PAIRS), asked, None)
    model.train()
    for _ in range(3):
        loop.step(np.arange(PAIRS))
    now = model.state_dict()
    for tower, learns in (("image_tower", image), ("text_tower", text)):
        same = [torch.equal(before[name], now[name]) for name in before if name.startswith(tower)]
        assert not all(same) if learns else all(same)
        gradients = [each.grad for name, each in model.named_parameters() if name.startswith(tower)]
        assert learns or all(each is None for each in gradients)  # nor is anything computed for it
    assert not torch.equal(before["matcher.align.weight"], now["matcher.align.weight"])


@pytest.mark.parametrize("kind", ["convolutional", "residual"])
def test_a_photos_embedding_does_not_depend_on_its_batch_while_training(
    directories: dict[str, Path], kind: str
) -> None:
    model = tiny_clip(directories[kind], fusion=False).train()
    before = {name: each.clone() for name, each in model.named_buffers()}
    pixels = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        together = model.look_at(pixels)[0]
        alone = torch.cat([model.look_at(each[None])[0] for each in pixels])
    assert torch.allclose(together, alone, atol=1e-5)
    assert all(torch.equal(each, before[name]) for name, each in model.named_buffers())


def test_a_share_of_the_way_back_leaves_what_is_counted(directories: dict[str, Path]) -> None:
    model, start = (tiny_clip(directories["convolutional"], fusion=False) for _ in range(2))
    counts = [name for name, each in model.named_buffers() if not each.is_floating_point()]
    with torch.no_grad():
        model.text_tower.ln_final.bias.add_(1.0)
        model.get_buffer(counts[0]).add_(3)
    blend(model, start, 0.75)
    assert int(model.get_buffer(counts[0])) == 3
    assert torch.allclose(model.text_tower.ln_final.bias, start.text_tower.ln_final.bias + 0.25)


def test_places_are_where_they_are_while_training(directories: dict[str, Path]) -> None:
    model = tiny_clip(directories["vit"]).train()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert model.look_at(pixels)[1].shape[1] == 16  # half of them would be dropped at random


@pytest.mark.parametrize("kind", ["vit", "convolutional"])
def test_checkpointing_changes_no_gradient_and_ends_with_training(directories: dict[str, Path], kind: str) -> None:
    data, found = noise_pairs(PAIRS, side=32 if kind == "vit" else 64), []
    for checkpointing in (False, True):
        model = tiny_clip(directories[kind])
        assert model.can_checkpoint()
        model.checkpointing = checkpointing
        freeze(model, config(clip=1e9))
        loop = Loop(model, data, config(clip=1e9), None)
        model.train()
        loop.step(np.arange(PAIRS))
        assert model.text_tower.transformer.grad_checkpointing is checkpointing
        assert not model.eval().text_tower.transformer.grad_checkpointing
        found.append({name: each.grad for name, each in model.named_parameters() if each.grad is not None})
    for name, gradient in found[0].items():
        assert torch.allclose(found[1][name], gradient, rtol=1e-3, atol=1e-5), name


def test_a_tower_without_checkpointing_says_so(directories: dict[str, Path]) -> None:
    assert not tiny_clip(directories["residual"], fusion=False).can_checkpoint()


def test_a_new_matching_head_leaves_the_rest(directories: dict[str, Path]) -> None:
    model = tiny_clip(directories["vit"])
    bare = with_fusion(model, None)
    assert bare.matcher is None
    assert torch.equal(bare.log_scale, model.log_scale)
    assert torch.equal(bare.text_tower.ln_final.weight, model.text_tower.ln_final.weight)


def test_a_text_tower_that_appends_a_token_is_refused(tmp_path: Path) -> None:
    directory = openclip_models.write_openclip(tmp_path / "coca", openclip_models.CONFIGS["coca"])
    with pytest.raises(ModelError, match=r"model 'coca' cannot be trained: .* \(CoCa\); choose another with --from"):
        load_clip(load_model_manifest(directory))


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_eight_pairs_are_learned_by_heart(directories: dict[str, Path], micro_batch: int | None) -> None:
    data, lines = noise_pairs(PAIRS), list[str]()
    asked = config(
        epochs=60,
        stop_after=60,
        head_rate=3e-3,
        image_rate=1e-3,
        text_rate=1e-3,
        average_decay=0.5,
        validate_every=60,
        micro_batch=micro_batch,
        objectives=Objectives(itm=0.5),
    )
    fit(tiny_clip(directories["vit"]), (data, data), asked, watcher=Lines(lines.append))
    assert "i2t 100.0" in lines[-1] and "t2i 100.0" in lines[-1]
