"""The report: whole, escaped, fetching nothing, and never written over somebody's files."""

from __future__ import annotations

import base64
import importlib.util
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from colour_pictures import write_colour_pairs
from finished_run import Finished
from PIL import Image

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
pytest.importorskip("jinja2", reason="the extra `report` is not installed")

from mmsearch.errors import MissingExtra, UsageError
from mmsearch.eval.compare import compare_runs
from mmsearch.eval.datasets import load_dataset
from mmsearch.eval.report import MARKER, PAGE, render, require_report_directory, write_report
from mmsearch.eval.report_examples import Answered, pick_examples, thumbnail
from mmsearch.eval.run import EvalOptions, embed, evaluate_embedded
from mmsearch.eval.run_file import saved
from mmsearch.eval.sides import whole_sides

VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = '<script>alert(1)</script><img src=x onerror=alert(2)>" onload="x\' {{ 7 * 7 }} \u202egnp.exe'


class Page(HTMLParser):
    """Collects tags, checks that they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self._open == [], self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def html(finished: Finished) -> str:
    comparison = compare_runs(saved(finished.run), saved(finished.run), resamples=100)
    return render(finished.run, finished.embedded, comparison)


def test_page_has_numbers_charts_and_pictures(html: str, finished: Finished) -> None:
    page = Page(html)
    recall = finished.run.text_to_image.metrics["recall@5"]
    assert f"{100 * recall:.1f} %" in page.text
    assert f"{100 * (finished.run.mean_recall or 0):.1f} %" in page.text
    assert [tag for tag, _ in page.tags].count("svg") == 3
    assert "What changed" in page.text
    assert "rank of the first right answer" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) > 10


def test_a_reranked_page_shows_the_embeddings_alone_beside_every_number(reranked: Finished) -> None:
    run = reranked.run
    page = Page(render(run, reranked.embedded))
    assert "tiny, reranked, on pairs.csv" in page.text
    assert f"{100 * (run.mean_recall or 0):.1f} %" in page.text
    assert f"embeddings alone {100 * (run.plain_mean_recall or 0):.1f} %" in page.text
    for side in (run.plain.text_to_image, run.plain.image_to_text):
        assert f"embeddings alone {100 * side.metrics([1])['recall@1']:.1f} %" in page.text
    assert "matching logit of the best 20" in page.text


def test_a_page_without_reranking_says_nothing_of_it(html: str) -> None:
    assert "embeddings alone" not in Page(html).text
    assert "no reranking" in Page(html).text


def test_examples_of_a_reranked_run_are_in_the_final_order(reranked: Finished) -> None:
    assert reranked.run.looks is not None
    embedded, look = reranked.embedded, reranked.run.looks[0]
    ranks = reranked.run.ranks.text_to_image.ranks
    answered = Answered(embedded, ranks, whole_sides(embedded)[0], look)
    scores = look.scores(embedded.captions @ embedded.images.T, 0)
    moved = 0
    for example in (*(found := pick_examples(answered, count=16)).worst, *found.best):
        query = embedded.dataset.captions.index(example.query.text)
        shown = [embedded.dataset.image_ids[row] for row in np.argsort(-scores[query], kind="stable")[:3]]
        assert [item.text for item in example.returned] == shown
        similarities = [item.similarity for item in example.returned]
        moved += similarities != sorted(similarities, reverse=True)
    assert moved


@pytest.mark.case("S33")
@pytest.mark.promise("R9")
def test_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    policies = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith(("data:image/jpeg;base64,", "#")), (tag, value)
    outside = re.sub(r'xmlns(:xlink)?="[^"]*"', "", html)
    assert "http://" not in outside and "https://" not in outside
    assert not re.search(r"url\((?!#)|@import", outside)


def test_ids_are_distinct_and_references_meet_them(html: str) -> None:
    page = Page(html)
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', html)) <= set(page.ids)


def test_charts_follow_the_colours_of_the_page(html: str) -> None:
    for chart in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert set(re.findall(r"#[0-9a-f]{6}\b", chart)) == set()
        assert "var(--t2i)" in chart
        assert "DejaVu" not in chart


def test_same_run_gives_the_same_page(html: str, finished: Finished) -> None:
    comparison = compare_runs(saved(finished.run), saved(finished.run), resamples=100)
    assert render(finished.run, finished.embedded, comparison) == html


@pytest.mark.case("S33")
def test_names_and_captions_are_escaped_everywhere(tmp_path: Path, finished: Finished) -> None:
    table = write_colour_pairs(tmp_path)
    names = {"red.png": "<b>&'red.png", "blue.png": 'x" onerror="alert(3).png'}
    for old, new in names.items():
        (tmp_path / old).rename(tmp_path / new)
    quoted = EVIL.replace('"', '""')
    rows = [f'"{names["red.png"]}","red {quoted}"', '"' + names["blue.png"].replace('"', '""') + f'","{quoted} 2"']
    kept = [row for row in table.read_text().splitlines() if not row.startswith(("red.png", "blue.png"))]
    table = table.rename(tmp_path / "<i>pairs&.csv")
    table.write_text("\n".join(kept + rows), encoding="utf-8")
    options = EvalOptions(use_cache=False, resamples=50)
    embedded = embed(load_dataset(table), finished.model, options)
    run = evaluate_embedded(embedded, finished.model, options)
    run = replace(run, notes=(*run.notes, EVIL), system=replace(run.system, model=EVIL))
    comparison = compare_runs(saved(run), saved(run), resamples=50)
    page = Page(render(run, embedded, replace(comparison, before=EVIL)))
    assert {tag for tag, _ in page.tags} & {"script", "b", "i"} <= {"b", "i"}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<script>alert(1)</script>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "\u202e" not in page.text
    assert all(attributes.get("src", "data:") != "x" for _, attributes in page.tags)


def test_worst_and_best_examples_are_the_worst_and_the_best(finished: Finished) -> None:
    embedded, ranks = finished.embedded, finished.run.ranks.text_to_image.ranks
    found = pick_examples(Answered(embedded, ranks, whole_sides(embedded)[0]), count=4)
    assert found.worst[0].rank == ranks.best.max()
    assert [example.rank for example in found.worst] == sorted((e.rank for e in found.worst), reverse=True)
    assert all(example.rank == 1 and example.returned[0].right for example in found.best)
    margins = [(e.returned[0].similarity or 0) - (e.returned[1].similarity or 0) for e in found.best]
    assert margins == sorted(margins, reverse=True)
    for example in found.worst:
        assert not example.returned[0].right
        assert len(example.returned) == 3


def test_no_image_fills_the_page(finished: Finished) -> None:
    embedded, ranks = finished.embedded, finished.run.ranks.text_to_image.ranks
    found = pick_examples(Answered(embedded, ranks, whole_sides(embedded)[0]), count=16)
    image_of = {caption: int(image) for image, caption in embedded.dataset.pairs.tolist()}
    rows = [image_of[embedded.dataset.captions.index(example.query.text)] for example in found.best]
    assert len(rows) == len(set(rows))


def test_thumbnails_are_made_anew_from_pixels(tmp_path: Path, finished: Finished) -> None:
    table = write_colour_pairs(tmp_path)
    exif = Image.Exif()
    exif[0x010E] = "the garden behind the house"
    Image.new("RGB", (1600, 1200), (255, 0, 0)).save(tmp_path / "red.png", "JPEG", exif=exif, comment=b"secret words")
    embedded = embed(load_dataset(table), finished.model, EvalOptions(use_cache=False))
    uri = thumbnail(embedded, embedded.dataset.image_ids.index("red.png"))
    assert uri is not None
    data = base64.b64decode(uri.partition(",")[2])
    assert b"garden" not in data and b"secret" not in data
    image = Image.open(io.BytesIO(data))
    assert max(image.size) <= 320
    assert "comment" not in image.info and "exif" not in image.info and "icc_profile" not in image.info


def test_a_picture_that_went_away_leaves_a_gap_not_an_error(tmp_path: Path, finished: Finished) -> None:
    options = EvalOptions(use_cache=False, resamples=50)
    embedded = embed(load_dataset(write_colour_pairs(tmp_path)), finished.model, options)
    run = evaluate_embedded(embedded, finished.model, options)
    for name in embedded.dataset.image_ids:
        (tmp_path / name).unlink()
    assert "not readable" in render(run, embedded)


def test_a_tiny_set_has_a_report_too(tmp_path: Path, finished: Finished) -> None:
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("red")
    options = EvalOptions(use_cache=False)
    embedded = embed(load_dataset(tmp_path), finished.model, options)
    Page(render(evaluate_embedded(embedded, finished.model, options), embedded))


def test_report_is_written_and_written_again(tmp_path: Path, finished: Finished) -> None:
    for _ in range(2):
        page = write_report(tmp_path / "report", finished.run, finished.embedded)
        assert page == tmp_path / "report" / PAGE
        assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [PAGE, MARKER]


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path, finished: Finished) -> None:
    (tmp_path / "index.html").write_text("my homepage")
    with pytest.raises(UsageError, match="is not a report of ours"):
        write_report(tmp_path, finished.run, finished.embedded)
    assert (tmp_path / "index.html").read_text() == "my homepage"
    with pytest.raises(UsageError, match="is not a report of ours"):
        require_report_directory(tmp_path / "index.html")


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    require_report_directory(tmp_path)
    require_report_directory(tmp_path / "new")


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else real(name))
    with pytest.raises(MissingExtra, match=r"needs jinja2; install them with: pip install 'mmsearch\[report\]'"):
        require_report_directory(tmp_path)


def test_report_is_the_only_room_that_needs_the_extra() -> None:
    code = Path(__file__).resolve().parents[2] / "eval"
    users = {
        p.name
        for p in code.glob("*.py")
        if re.search(r"^\s*(import|from) (matplotlib|jinja2|markupsafe)", p.read_text(), re.M)
    }
    assert users == {"report.py", "report_charts.py"}


def test_chance_is_what_random_answers_reach(finished: Finished) -> None:
    from mmsearch.eval.report import _chance

    rng = np.random.default_rng(0)
    relevant, gallery, k = 3, 20, 5
    hits = [(rng.permutation(gallery)[:k] < relevant).any() for _ in range(20_000)]
    assert _chance(np.array([relevant]), gallery, k) == pytest.approx(np.mean(hits), abs=0.015)
    assert _chance(np.array([relevant]), gallery, 18) == pytest.approx(1.0)
