"""A model directory gives back the modules it was written from, whatever became of its weights on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from tiny_dual_encoder import MAX_TOKENS, SIZE  # noqa: E402
from tiny_training import worn_model  # noqa: E402

from mmsearch.errors import ModelError  # noqa: E402
from mmsearch.training.architecture import architecture, architecture_json, built, with_fusion  # noqa: E402
from mmsearch.training.export import write_graphs  # noqa: E402
from mmsearch.training.package import file_facts  # noqa: E402
from mmsearch.training.stored_weights import load_stored, parameters  # noqa: E402


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exact")
    write_graphs(worn_model(), directory, SIZE, MAX_TOKENS, exact=True)
    return directory


def test_every_parameter_comes_back_from_exact_graphs_bit_by_bit(exact: Path) -> None:
    wanted = worn_model().state_dict()
    found = {}
    for name in ("image.onnx", "text.onnx", "itm.onnx"):
        found.update(parameters(onnx.load(exact / name).graph, wanted))
    assert all(wanted[name].ndim == 0 for name in wanted.keys() - found.keys())
    for name, value in found.items():
        assert torch.equal(torch.from_numpy(value), wanted[name]), name


def test_a_model_directory_becomes_the_model_it_was(starting_model: Path) -> None:
    model, original = load_stored(starting_model), with_fusion(worn_model(), None)
    assert architecture(model) == architecture(original)
    assert not model.training
    worst = 0.0
    for name, value in original.state_dict().items():
        worst = max(worst, float((model.state_dict()[name] - value).abs().max() / value.abs().max().clamp(min=1e-3)))
    assert 0 < worst < 0.02  # float16 and int8 are not exact, and nothing is in the wrong place


def test_a_description_builds_the_same_shapes_again() -> None:
    model = worn_model()
    again = built(json.loads(architecture_json(model)))
    assert again.config == model.config
    assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in model.state_dict().items()}


def test_a_description_of_an_unknown_part_is_refused() -> None:
    described = architecture(worn_model())
    described["model"]["third_eye"] = 3
    with pytest.raises(ModelError, match="does not know"):
        built(described)


def test_with_fusion_keeps_the_towers_and_changes_only_the_head() -> None:
    model = worn_model()
    bare = with_fusion(model, None)
    assert bare.matcher is None and bare.projector is None
    assert torch.equal(bare.image_head.project.weight, model.image_head.project.weight)
    assert bare.text_tower is model.text_tower
    assert with_fusion(bare, model.config.fusion).matcher is not None


def _changed(start: Path, directory: Path, change: object) -> Path:
    """A copy of `start` whose text graph went through `change`, with a manifest that pins it."""
    for path in start.iterdir():
        if path.is_file():
            (directory / path.name).write_bytes(path.read_bytes())
    graph = onnx.load(directory / "text.onnx")
    change(graph)  # type: ignore[operator]
    onnx.save_model(graph, directory / "text.onnx")
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["text.onnx"] = file_facts(directory / "text.onnx")
    (directory / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return directory


def test_a_missing_weight_is_named(starting_model: Path, tmp_path: Path) -> None:
    def rename(graph: onnx.ModelProto) -> None:
        for tensor in graph.graph.initializer:
            if tensor.name.endswith("layers.1.out_norm.bias"):
                tensor.name = "lost"

    with pytest.raises(ModelError, match=r"holds no weight text_tower.layers.1.out_norm.bias; choose another"):
        load_stored(_changed(starting_model, tmp_path, rename))


def test_graphs_that_compute_something_else_are_not_trained_on(starting_model: Path, tmp_path: Path) -> None:
    def negate(graph: onnx.ModelProto) -> None:
        product = next(node for node in graph.graph.node if node.op_type == "Gelu")
        product.op_type = "Relu"
        product.domain = ""
        del product.attribute[:]

    with pytest.raises(ModelError, match="agree with torch"):
        load_stored(_changed(starting_model, tmp_path, negate))


def test_a_model_of_others_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="training cannot start from model 'tiny'"):
        load_stored(tiny_model_dir)


def test_the_bundled_model_can_be_trained_further() -> None:
    assert load_stored("mini").config.dim == 384
