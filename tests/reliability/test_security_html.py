"""The report of an evaluation shows names, captions and models, and runs, loads and links to nothing of them."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mmsearch.eval.datasets import load_dataset
from mmsearch.eval.report import render
from mmsearch.eval.run import EvalOptions, embed, evaluate_embedded
from mmsearch.model import load_model

pytestmark = pytest.mark.case("S33")
pytest.importorskip("jinja2", reason="the extra 'report' is not installed")

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "<svg onload=alert(1)>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "javascript:alert(1)",
    "data:text~html,<script>alert(1)<~script>",
    "<iframe srcdoc='<script>alert(1)<~script>'>",
    "<a href=javascript:alert(1)>x<~a>",
    "{{ 7 * 7 }}{% include '~etc~passwd' %}",
    "--><script>alert(1)</script><!--",
    "]]><script>alert(1)<~script>",
    "&#60;script&#62;alert(1)&#60;~script&#62;",
    "\u202egnp.exe",
    "<style>*{background:url(http:~~x)}",
    "<base href=http:~~x>",
    "<meta http-equiv=refresh content=0;url=http:~~x>",
    "expression(alert(1))",
)
RUNS_OR_LOADS = {"script", "iframe", "object", "embed", "link", "base", "form", "frame", "applet", "video", "audio"}
LEADS_OUT = {
    "href",
    "src",
    "srcset",
    "srcdoc",
    "action",
    "formaction",
    "data",
    "poster",
    "background",
    "xlink:href",
    "ping",
}


class Page(HTMLParser):
    """The tags of a page with their attributes, its text, and its comments."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = self.comments = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Page:
    """A report in which every name is hostile: of pictures, of the dataset, of the model, in captions and notes."""
    folder = tmp_path_factory.mktemp("hostile") / "<script>alert(0)<~script>"
    folder.mkdir()
    for number, text in enumerate(HOSTILE):
        name = text.replace("/", "~").replace("\n", "")
        Image.new("RGB", (16, 16), (12 * number, 255 - 12 * number, 90)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{text} {number}\nred {text}\n", encoding="utf-8")
    options = EvalOptions(use_cache=False, resamples=50)
    model = load_model(tiny_model_dir, threads=1)
    embedded = embed(load_dataset(folder), model, options)
    run = evaluate_embedded(embedded, model, options)
    run = replace(run, notes=(*run.notes, *HOSTILE), system=replace(run.system, model="".join(HOSTILE)))
    return Page(render(run, embedded, None))


def test_what_is_hostile_is_shown_as_text(page: Page) -> None:
    for text in HOSTILE[:6]:
        assert text in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "alert" not in page.comments


def test_no_tag_runs_or_loads_anything(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & RUNS_OR_LOADS


def test_no_attribute_is_a_handler_or_leads_out_of_the_page(page: Page) -> None:
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in LEADS_OUT:
                assert (value or "").startswith(("#", "data:image/")), (tag, name, value)
            if name == "style":
                assert "url(" not in (value or "") and "expression" not in (value or ""), (tag, value)
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert not any("http-equiv" in attributes and attributes["http-equiv"] == "refresh" for attributes in metas)


def test_nothing_turns_the_text_around(page: Page) -> None:
    assert "\u202e" not in page.text
    assert not any("\u202e" in (value or "") for _, attributes in page.tags for value in attributes.values())
