"""Every bench, in its smallest form: it runs, its rows are about what it says, and nothing is left out in silence."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from colour_pictures import write_colour_pairs
from PIL import Image

from mmsearch.errors import UsageError
from mmsearch.eval.bench import ingest as ingest_module
from mmsearch.eval.bench import rescan as rescan_module
from mmsearch.eval.bench.__main__ import BENCHES, bench, main
from mmsearch.eval.bench.filter import masks, rows_that_follow, search_more
from mmsearch.eval.bench.peer import Peer
from mmsearch.eval.bench.peer_model import PeerSize, TowerSize, write_peer_model
from mmsearch.eval.bench.photo_files import SMALL, write_photos
from mmsearch.eval.bench.request import PEER_ABSENT, BenchRequest
from mmsearch.eval.bench.rescan import copy_as_new
from mmsearch.eval.bench.result import BenchResult
from mmsearch.eval.bench.search import with_front
from mmsearch.eval.bench.timing import Ratio
from mmsearch.vector_index import ExactIndex


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour pictures in the shape of Flickr8k's folder."""
    folder = tmp_path_factory.mktemp("data")
    write_colour_pairs(folder).rename(folder / "val.csv")
    (folder / "images").mkdir()
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.save(folder / "images" / f"{path.stem}.jpg")
    return folder


@pytest.fixture
def request_of(data: Path, tiny_model_dir: Path, tmp_path: Path) -> BenchRequest:
    return BenchRequest(data=data, model=str(tiny_model_dir), size=60, rounds=1, work=tmp_path / "work", threads=1)


@pytest.mark.slow
def test_cold_query_times_whole_processes_and_says_that_the_peer_is_absent(request_of: BenchRequest) -> None:
    result = bench("cold-query")(request_of)
    walls = {row[0]: row[1] for row in result.rows}
    assert set(walls) >= {"mmsearch query", "mmsearch query, no bytecode", "python alone"}
    assert walls["python alone"] < walls["mmsearch query"]  # type: ignore[operator]
    assert PEER_ABSENT in result.notes
    assert any("60 vectors grown from 16 photos" in note for note in result.notes)


def test_warm_query_compares_with_the_model_alone(request_of: BenchRequest) -> None:
    result = bench("warm-query")(request_of)
    assert [row[0] for row in result.rows] == ["Collection.search", "the model alone", "same model, numpy in memory"]


def test_search_finds_everything_where_it_reads_everything(request_of: BenchRequest) -> None:
    result = bench("search")(dataclasses.replace(request_of, size=400))
    recalls = {str(row[1]).split(" ")[0].split(",")[0]: row[2] for row in result.rows}
    assert recalls["exact"] == 1.0
    assert {"sqfp16", "ivfpq", "HNSW32", "SQ8", "IVF80"} <= set(recalls)
    assert any(row[0] == "*" for row in result.rows)


def test_filtered_search_keeps_its_recall_at_every_share(request_of: BenchRequest) -> None:
    result = bench("filter")(dataclasses.replace(request_of, size=2000))
    names = {"all", "1 %, picked", "1 %, alike", "all but 1 % alike", "all but 1 % nearest to the query"}
    assert {row[0] for row in result.rows} >= names
    assert all(float(row[2] or 0) >= 0.99 for row in result.rows)


def test_rows_that_are_alike_are_those_nearest_to_one_photo() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((2000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    filters = dict(masks(vectors))
    similarities = vectors @ vectors[1000]
    alike = filters["1 %, alike"]
    assert (alike.sum(), alike[1000]) == (20, True)
    assert similarities[alike].min() > similarities[~alike].max()
    assert np.array_equal(filters["all but 1 % alike"], ~alike)
    assert abs(similarities[filters["10 %, picked"]].mean()) < 0.1


def test_filters_that_follow_the_query_show_what_an_index_misses() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((2000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = rows_that_follow(ExactIndex(vectors), vectors, vectors[:3])
    assert [row[1:3] for row in rows] == 2 * [(1000, 1.0), (1800, 1.0), (1980, 1.0), (1998, 1.0)]
    assert all(row[2] == 0 for row in rows_that_follow(_Blind(vectors), vectors, vectors[:3]))


class _Blind(ExactIndex):
    """Finds the farthest rows instead of the nearest."""

    def search(
        self, queries: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        return super().search(-queries, k, allowed)


@pytest.mark.slow
def test_ingest_and_rescan_run_the_real_command(request_of: BenchRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_module, "SIZES", {"500 px": (SMALL, 1)})
    monkeypatch.setattr(rescan_module, "NEW_PHOTOS", 3)
    ingest = bench("ingest")(dataclasses.replace(request_of, size=2))
    assert [row[:2] for row in ingest.rows] == [("500 px", "mmsearch index"), ("500 px", "one plain loop")]
    assert ingest.notes[0].startswith("photos: 2 of 500 px;")
    rescan = bench("rescan")(dataclasses.replace(request_of, size=120))
    assert [row[0] for row in rescan.rows] == [
        "nothing new",
        "os.walk and stat",
        "the 100 photos alone",
        "100 new photos",
    ]


def test_train_step_times_the_product_and_the_plain_step() -> None:
    pytest.importorskip("torch")
    from mmsearch.eval.bench.train_step import TrainShape, measure
    from mmsearch.training.dual_encoder import DualConfig, HeadConfig
    from mmsearch.training.fusion import FusionConfig
    from mmsearch.training.towers import ImageTowerConfig, TextTowerConfig

    fusion = FusionConfig(text_inputs=16, grid=2, token_dim=16, layers=1, attention_heads=2, hidden=32)
    shape = TrainShape(
        image=ImageTowerConfig(width=0.25),
        text=TextTowerConfig(vocabulary=50, width=16, layers=2, attention_heads=2, hidden=32, max_tokens=16),
        dual=DualConfig(
            dim=16,
            image=HeadConfig(inputs=1280, width=24, hidden=8),
            text=HeadConfig(inputs=16, width=16, hidden=0, identity=True),
            fusion=fusion,
        ),
        side=64,
        words=8,
    )
    result = measure(BenchRequest(size=4, rounds=1), shape)
    assert [str(row[0]).split(",")[0] for row in result.rows] == ["product", "plain torch", "product"]


def test_every_bench_has_its_module() -> None:
    for name in BENCHES:
        if name not in ("encoder", "train-step"):  # they need torch
            assert callable(bench(name))


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_prints_a_table_or_one_json_object(
    request_of: BenchRequest, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    arguments = ["warm-query", "--data", str(request_of.data), "--model", request_of.model, "--size", "50"]
    assert main([*arguments, "--rounds", "1", *(["--json"] if as_json else [])]) == 0
    out = capsys.readouterr().out
    if as_json:
        found = json.loads(out)
        assert (found["bench"], found["rows"][0]["way"]) == ("warm-query", "Collection.search")
        assert found["machine"]["cores"] >= 1
    else:
        assert out.splitlines()[0].startswith("| way")
        assert "\nratio Collection.search / the model alone: " in out


def test_an_error_is_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warm-query", "--data", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("bench warm-query: ")
    with pytest.raises(SystemExit):
        main(["no-such-bench"])


def test_a_result_shows_its_ratios_with_their_interval() -> None:
    result = BenchResult(
        "x", ("a", "b"), (("one", 0.12345), ("two", None)), {"one / two": Ratio(0.5, 0.4, 0.6)}, ("n",)
    )
    lines = list(result.lines({"cores": 2}))
    assert lines[0] == "| a   | b     |"
    assert lines[2:4] == ["| one | 0.123 |", "| two | -     |"]
    assert "ratio one / two: 0.5 (95 % of the time within 0.4 to 0.6)" in lines
    assert lines[-2:] == ["note: n", "machine: cores 2"]


def test_the_front_holds_what_no_other_beats_in_recall_and_time() -> None:
    rows = [("a", 1.0, 9.0), ("b", 0.9, 1.0), ("c", 0.9, 2.0), ("d", 0.8, 0.5), ("e", 1.0, 9.0)]
    assert [row[0] for row in with_front([tuple(row) for row in rows])] == ["*", "*", "", "*", "*"]


def test_searching_more_and_dropping_ends_at_the_last_row() -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((300, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mask = np.zeros(300, np.bool_)
    mask[[5, 250]] = True
    assert sorted(search_more(ExactIndex(vectors), vectors[0], mask).tolist()) == [5, 250]


def test_photos_of_a_size_are_made_once_and_differ(data: Path, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 3, (64, 48), data)
    photos = sorted(folder.iterdir())
    assert len({path.read_bytes() for path in photos}) == 3
    with Image.open(photos[0]) as photo:
        assert (photo.size, photo.format) == ((64, 48), "JPEG")
    assert write_photos(tmp_path / "p", 3, (64, 48), None) == folder


def test_a_copy_as_new_has_other_bytes_and_the_same_pixels(data: Path, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 1, (64, 48), data)
    copy_as_new(folder, tmp_path / "q")
    old, new = folder / "photo-0.jpg", tmp_path / "q" / "photo-0.jpg"
    assert old.read_bytes() != new.read_bytes()
    with Image.open(old) as one, Image.open(new) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_a_peer_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pip install rclip"):
        Peer(Path(sys.executable), tmp_path)
    with pytest.raises(UsageError, match="cannot be run"):
        Peer(tmp_path / "python", tmp_path)


def test_the_stand_in_has_the_inputs_and_outputs_of_the_peers_model(tmp_path: Path) -> None:
    size = PeerSize(
        image=TowerSize(width=16, layers=1, heads=2, tokens=5, dim=8),
        text=TowerSize(width=12, layers=1, heads=2, tokens=7, dim=8),
        patch=4,
        vocabulary=20,
    )
    write_peer_model(tmp_path, size)
    inputs = {"visual": np.ones((2, 3, 8, 8), np.float32), "textual": np.arange(14, dtype=np.int64).reshape(2, 7)}
    for name, value in inputs.items():
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx", providers=["CPUExecutionProvider"])
        (features,) = session.run(None, {"input": value})
        assert features.shape == (2, 8)
        assert np.isfinite(features).all()
        assert np.ptp(features) > 0
