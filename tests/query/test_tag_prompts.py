from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmsearch.errors import ModelError, UsageError
from mmsearch.model import Model, load_model
from mmsearch.progress import Progress
from mmsearch.prompts import BARE, TEMPLATES, checked_templates, embed_labels


@pytest.fixture(scope="module")
def tiny(tiny_model_dir: Path) -> Model:
    return load_model(tiny_model_dir, threads=1)


def test_an_ensemble_is_the_unit_mean_of_unit_embeddings(tiny: Model) -> None:
    labels = ["red", "a rather long label, longer than most", "blue sky", "x"]
    templates = ["a photo of a {}.", "{}", "{}, or not {}"]
    ensemble = embed_labels(labels, tiny, templates=templates)
    assert ensemble.names == tuple(labels)
    assert ensemble.embeddings.dtype == np.float32
    for label, row in zip(labels, ensemble.embeddings, strict=True):
        sentences = [f"a photo of a {label}.", label, f"{label}, or not {label}"]
        mean = np.mean([tiny.encode_texts([sentence])[0] for sentence in sentences], axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_bare_label_is_its_own_sentence(tiny: Model) -> None:
    labels = ["green", "red white"]
    np.testing.assert_allclose(
        embed_labels(labels, tiny, templates=BARE).embeddings, tiny.encode_texts(labels), atol=1e-6
    )


def test_labels_by_the_hundreds_keep_their_order_and_say_how_far_they_are(tiny: Model) -> None:
    labels = [f"{'x' * (number % 7)} {number}" for number in range(600)]
    heard: list[Progress] = []
    embedded = embed_labels(labels, tiny, templates=BARE, progress=heard.append)
    np.testing.assert_allclose(embedded.embeddings, tiny.encode_texts(labels), atol=1e-5)
    assert heard[0] == Progress("embed", 0, 600)
    assert heard[-1] == Progress("embed", 600, 600)


def test_braces_in_a_label_are_letters_like_others(tiny: Model) -> None:
    odd = embed_labels(["{}", "{0}", "%s"], tiny, templates=["the {}"]).embeddings
    np.testing.assert_allclose(odd, tiny.encode_texts(["the {}", "the {0}", "the %s"]), atol=1e-6)


def test_the_usual_templates_can_be_used() -> None:
    assert checked_templates(TEMPLATES) == TEMPLATES
    assert len(set(TEMPLATES)) == len(TEMPLATES)


@pytest.mark.parametrize(
    ("templates", "complaint"),
    [
        ([], r"there are no templates: give at least one, such as 'a photo of a \{\}\.'"),
        (["a photo"], r"the template 'a photo' has no \{\}: expected a sentence with \{\} for the label"),
        (["{0}"], r"has no \{\}"),
        ([b"{}"], r"has no \{\}"),
        (["{}" * 400], "a template has 800 characters: expected at most 500"),
        ("{}", "templates is str: expected a list of str"),
    ],
)
def test_templates_that_cannot_be_used_are_named(templates: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        checked_templates(templates)


class Contrary(Model):
    """Gives each template the opposite of the one before."""

    sign = 1

    def encode_texts(self, texts: object, **_: object) -> np.ndarray:
        self.sign = -self.sign
        return np.full((len(texts), self.dim), self.sign / np.sqrt(self.dim), np.float32)


def test_sentences_that_cancel_each_other_out_are_an_error_that_names_the_label(tiny: Model) -> None:
    with pytest.raises(ModelError, match="the label 'red' cancel each other out"):
        embed_labels(["red"], Contrary(tiny.manifest, threads=1), templates=["{}", "not {}"])
