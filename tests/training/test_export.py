"""The exported graphs compute what torch computes, at every precision, for any batch and any padding."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from tiny_dual_encoder import MAX_TOKENS, SIZE, WORDS, tiny_dual_encoder  # noqa: E402

from mmsearch.errors import ModelError  # noqa: E402
from mmsearch.training.dual_encoder import DualEncoder  # noqa: E402
from mmsearch.training.export import (  # noqa: E402
    Precision,
    graphs_of,
    quantised_rows,
    save_compact,
    save_graph,
    text_graph,
    write_graphs,
)
from mmsearch.training.fusion import TOKEN_STEP  # noqa: E402
from mmsearch.training.onnx_check import check_parity, session  # noqa: E402
from mmsearch.training.package import ModelFacts, write_manifest  # noqa: E402
from mmsearch.training.towers import MiniLM, TextTowerConfig  # noqa: E402
from mmsearch.training.validation import Recalls  # noqa: E402

EXACT, COMPACT = Precision(half_weights=False, int8_words=False), Precision()


@pytest.fixture(scope="module")
def graphs() -> dict[str, onnx.ModelProto]:
    return graphs_of(tiny_dual_encoder(), SIZE, MAX_TOKENS)


def _save(graphs: dict[str, onnx.ModelProto], directory: Path, precision: Precision) -> None:
    for name, graph in graphs.items():
        save_graph(graph, directory / name, precision)


@pytest.mark.parametrize(
    ("precision", "cosine"), [(EXACT, 0.9999), (COMPACT, 0.999), (Precision(int8_linears=True), 0.995)]
)
def test_graphs_agree_with_torch(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path, precision: Precision, cosine: float
) -> None:
    _save(graphs, tmp_path, precision)
    assert check_parity(tmp_path, tiny_dual_encoder(), SIZE, smallest_cosine=cosine) >= cosine


def test_graphs_of_another_model_are_refused(graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    _save(graphs, tmp_path, EXACT)
    with pytest.raises(ModelError, match="expected at least"):
        check_parity(tmp_path, tiny_dual_encoder(seed=1), SIZE, smallest_cosine=0.9999)


def test_compact_weights_are_half_and_the_word_table_is_int8(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    _save(graphs, tmp_path, COMPACT)
    stored = onnx.load(tmp_path / "text.onnx").graph.initializer
    kinds = {t.name: t.data_type for t in stored}
    assert onnx.TensorProto.INT8 in kinds.values()
    large = [t for t in stored if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) >= 2048]
    assert not large
    floats = {t.data_type for t in onnx.load(tmp_path / "image.onnx").graph.initializer if np.prod(t.dims) >= 1024}
    assert floats == {onnx.TensorProto.FLOAT16}


def test_graphs_keep_no_note_of_the_machine_that_made_them(graphs: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    _save(graphs, tmp_path, COMPACT)
    for name in ("image.onnx", "text.onnx"):
        content = (tmp_path / name).read_bytes()
        assert b".py" not in content
        assert b"site-packages" not in content


def test_inputs_and_output_carry_the_names_and_types_the_encoder_expects(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    _save(graphs, tmp_path, COMPACT)
    images, texts = session(tmp_path / "image.onnx"), session(tmp_path / "text.onnx")
    assert [(i.name, i.type) for i in images.get_inputs()] == [("pixels", "tensor(uint8)")]
    assert [(i.name, i.type) for i in texts.get_inputs()] == [
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    ]
    embedding_out = ("embedding", "tensor(float)")
    assert [(o.name, o.type) for o in images.get_outputs()] == [embedding_out, ("tokens", "tensor(int8)")]
    assert [(o.name, o.type) for o in texts.get_outputs()] == [embedding_out, ("states", "tensor(float)")]
    ids = np.ones((3, MAX_TOKENS), dtype=np.int64)
    (embedding,) = texts.run(["embedding"], {"input_ids": ids, "attention_mask": ids})
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-5)


def test_the_match_graph_gives_torchs_logits_on_stored_tokens_whatever_the_batch(tmp_path: Path) -> None:
    model = tiny_dual_encoder()
    assert model.matcher is not None
    write_graphs(model, tmp_path, SIZE, MAX_TOKENS, exact=True)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(-127, 128, (5, 4, 16), generator=generator, dtype=torch.int8)
    states = torch.randn(5, 6, 16, generator=generator)
    mask = torch.arange(6)[None, :] < torch.tensor([6, 4, 3, 5, 2])[:, None]
    with torch.no_grad():
        expected = model.matcher(tokens.float() * TOKEN_STEP, states, mask).numpy()
    graph = session(tmp_path / "itm.onnx")
    inputs = {"tokens": tokens.numpy(), "states": states.numpy(), "attention_mask": mask.long().numpy()}
    (logits,) = graph.run(["logit"], inputs)
    alone = np.concatenate([graph.run(["logit"], {k: v[i : i + 1] for k, v in inputs.items()})[0] for i in range(5)])
    assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(alone - logits).max() < 1e-4


def _always() -> None:
    raise ModelError("always too much")


def _wide_dual_encoder() -> DualEncoder:
    """The tiny model with a text tower whose linear maps are large enough to be stored compactly."""
    tiny = tiny_dual_encoder()
    text = TextTowerConfig(vocabulary=WORDS, width=32, layers=1, attention_heads=2, hidden=64, max_tokens=MAX_TOKENS)
    head = replace(tiny.config.text, inputs=32, width=32)
    return DualEncoder(tiny.image_tower, MiniLM(text), replace(tiny.config, text=head, fusion=None)).eval()


def test_linear_maps_are_int8_unless_that_loses_too_much(tmp_path: Path) -> None:
    def int8_linears() -> bool:
        stored = onnx.load(tmp_path / "text.onnx").graph.initializer
        return any("layers.0.expand" in t.name and t.data_type == onnx.TensorProto.INT8 for t in stored)

    def check() -> None:
        if int8_linears():
            raise ModelError("too much is lost")

    large = {"text.onnx": text_graph(_wide_dual_encoder(), MAX_TOKENS)}
    save_compact(large, tmp_path, lambda: None)
    assert int8_linears()
    save_compact(large, tmp_path, check)
    assert not int8_linears()
    with pytest.raises(ModelError, match="always"):
        save_compact(large, tmp_path, _always)


def test_a_match_graph_of_another_head_is_refused(tmp_path: Path) -> None:
    model = tiny_dual_encoder()
    write_graphs(model, tmp_path, SIZE, MAX_TOKENS)
    assert check_parity(tmp_path, model, SIZE, smallest_cosine=0.99) >= 0.99
    assert model.matcher is not None
    with torch.no_grad():
        model.matcher.match[-1].bias += 1.0
    with pytest.raises(ModelError, match="match logits"):
        check_parity(tmp_path, model, SIZE, smallest_cosine=0.99)


def test_stored_tokens_are_the_projected_ones_in_steps(tmp_path: Path) -> None:
    model = tiny_dual_encoder()
    write_graphs(model, tmp_path, SIZE, MAX_TOKENS, exact=True)
    pixels = torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (stored,) = session(tmp_path / "image.onnx").run(["tokens"], {"pixels": pixels.numpy()})
    with torch.no_grad():
        tokens = model.match_tokens(model.image_tower(pixels)).numpy()
    assert np.abs(stored.astype(np.float32) * TOKEN_STEP - tokens).max() <= TOKEN_STEP * 0.51


def test_quantised_rows_err_by_at_most_half_a_step_and_keep_zero_rows() -> None:
    table = np.random.default_rng(0).normal(0, 1, (50, 8)).astype(np.float32)
    table[3] = 0.0
    rows, scales = quantised_rows(table)
    assert rows.dtype == np.int8
    assert np.all(np.abs(rows * scales - table) <= scales * 0.5001)
    assert not rows[3].any()
    assert np.all(np.abs(np.delete(rows, 3, axis=0)).max(1) == 127)  # the whole range is used


def test_manifest_hashes_match_every_file_beside_it(tmp_path: Path) -> None:
    for name, content in {
        "image.onnx": b"a",
        "text.onnx": b"bb",
        "tokenizer.json": b"{}",
        "MODEL_CARD.md": b"#",
    }.items():
        (tmp_path / name).write_bytes(content)
    measured = Recalls((0.25, 0.5, 0.75), (0.3, 0.6, 0.9))
    facts = ModelFacts("mini", "0.1", 384, (224, 224), 64, "terms", "val", 2, 10, measured)
    write_manifest(tmp_path, facts)
    write_manifest(tmp_path, facts)  # again: the manifest never lists itself
    written = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert set(written["files"]) == {"image.onnx", "text.onnx", "tokenizer.json", "MODEL_CARD.md"}
    for name, entry in written["files"].items():
        content = (tmp_path / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    assert written["quality"]["mean_recall"] == 0.55
    assert written["quality"]["text_to_image"] == {"recall@1": 0.25, "recall@5": 0.5, "recall@10": 0.75}
