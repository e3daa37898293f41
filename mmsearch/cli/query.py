"""`mmsearch query`: a sentence, a picture, or both -> the nearest pictures or texts."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from mmsearch.cli.options import CollectionOption, DebugOption, JsonOption, OwnModelOption
from mmsearch.cli.query_answer import QueryArguments, answer


class Target(enum.StrEnum):
    """What to look for."""

    IMAGES = "images"
    TEXTS = "texts"


def query(
    sentence_or_image: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUERY]",
            help="A sentence, or the path of an image; - reads the sentence from stdin.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="A sentence, whatever it looks like.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="The path of an image.")] = None,
    to: Annotated[Target, typer.Option("--to", help="What to find.")] = Target.IMAGES,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits at most.")] = 10,
    under: Annotated[str | None, typer.Option("--under", metavar="DIR", help="Only files below this folder.")] = None,
    min_similarity: Annotated[
        float | None, typer.Option("--min-similarity", min=-1, max=1, help="Only hits with at least this cosine.")
    ] = None,
    rerank: Annotated[
        bool | None,
        typer.Option(
            "--rerank/--no-rerank",
            help="Look again, more closely, at the best hits of a sentence for photos or a photo for texts."
            " [default: where the model can]",
            show_default=False,
        ),
    ] = None,
    text_weight: Annotated[
        float,
        typer.Option("--text-weight", min=0, max=1, help="How much the sentence counts beside a picture."),
    ] = 0.5,
    paths: Annotated[bool, typer.Option("--paths", help="Print only paths, escaped, one a line.")] = False,
    print0: Annotated[
        bool, typer.Option("-0", "--print0", help="Print only paths, exactly, each ended by NUL.")
    ] = False,
    as_json: JsonOption = False,
    collection: CollectionOption = None,
    model: OwnModelOption = None,
    debug: DebugOption = False,
) -> None:
    """Find pictures or texts by a sentence or a picture.

    A sentence and a picture together ask for what fits both.
    """
    answer(
        QueryArguments(
            argument=sentence_or_image,
            text=text,
            image=image,
            to=to.value,
            k=k,
            under=under,
            min_similarity=min_similarity,
            rerank=rerank,
            text_weight=text_weight,
            paths=paths,
            print0=print0,
            as_json=as_json,
            collection=collection,
            model=model,
        )
    )
