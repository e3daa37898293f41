"""The options that every command has, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

CollectionOption = Annotated[
    str | None,
    typer.Option(
        "--collection",
        metavar="NAME|DIR",
        help="Which collection: a name, or a directory (anything with a path separator). [env: MMSEARCH_COLLECTION]",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help="A model's name (mmsearch models list), or the directory of another one. [env: MMSEARCH_MODEL]",
        show_default=False,
    ),
]
OwnModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help="A model's name (mmsearch models list), or the directory of another one. [default: the collection's own;"
        " env for a new collection: MMSEARCH_MODEL]",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
# Its value is not passed on: `main` looks for the flag itself, because it has to know even when parsing fails.
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", expose_value=False, show_default=False)
]
