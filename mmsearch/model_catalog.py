"""The models that are known by name before anything is asked on a network: short names, tags, size, quality, licence.

Numbers are R@1 without fine-tuning, (image to text, text to image), in percent, on the test sets of Flickr30k and
COCO 5K as the models' makers and the OpenCLIP project publish them; None where nothing was found published. Sizes
follow from the parameters, at four bytes each; what is really fetched is said before it is. Three are recommended, from
the models whose licence lets anybody use them:

- `small`, ViT-B-32 / laion2b_s34b_b79k (84.1 / 66.8, 56.3 / 39.3): the least work for a picture, 49 patches where the
  others have 64 to 729, and with it more texts find their photo on Flickr30k than with the one of 64.
- `base`, ViT-B-16-SigLIP2 / webli (COCO 68.9 / 52.1): better on COCO than ViT-L-14 (63.4 / 46.5), which is larger and
  does several times the work, and than everything else below 400 M parameters with a free licence; and it reads more
  languages than English.
- `large`, ViT-SO400M-14-SigLIP-384 / webli (94.3 / 83.0, 72.4 / 54.2): the best in the table on either set.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

Recalls: TypeAlias = tuple[float, float]

HUB_PREFIX = "hf-hub:"
_BYTES_OF_A_PARAMETER = 4


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One published model. `parameters` are millions; `repository` is where the hub keeps it."""

    architecture: str
    pretrained: str
    repository: str
    parameters: float
    flickr30k: Recalls | None
    coco: Recalls | None
    license: str
    non_commercial: bool = False
    short: str | None = None

    @property
    def name(self) -> str:
        """`ARCHITECTURE/PRETRAINED`, as OpenCLIP names it."""
        return f"{self.architecture}/{self.pretrained}"

    @property
    def directory(self) -> str:
        """What its directory in the store is called, and so what a collection remembers of it."""
        return self.name.replace("/", "--")

    @property
    def approximate_bytes(self) -> int:
        """What its weights come to."""
        return round(self.parameters * 1e6) * _BYTES_OF_A_PARAMETER

    @property
    def quality(self) -> dict[str, Any]:
        """R@1 as fractions, by test set and direction: the words of a manifest's `quality`."""
        recalls = {"flickr30k": self.flickr30k, "coco": self.coco}
        return {
            name: {"image_to_text": {"recall@1": each[0] / 100}, "text_to_image": {"recall@1": each[1] / 100}}
            for name, each in recalls.items()
            if each is not None
        }


_APPLE = "Apple research licence (non-commercial)"

KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        "ViT-B-32",
        "laion2b_s34b_b79k",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
        151.3,
        (84.1, 66.8),
        (56.3, 39.3),
        "MIT",
        short="small",
    ),
    KnownModel(
        "ViT-B-16-SigLIP2",
        "webli",
        "timm/ViT-B-16-SigLIP2",
        375.2,
        None,
        (68.9, 52.1),
        "Apache-2.0",
        short="base",
    ),
    KnownModel(
        "ViT-SO400M-14-SigLIP-384",
        "webli",
        "timm/ViT-SO400M-14-SigLIP-384",
        878.0,
        (94.3, 83.0),
        (72.4, 54.2),
        "Apache-2.0",
        short="large",
    ),
    KnownModel(
        "ViT-B-32-256",
        "datacomp_s34b_b86k",
        "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K",
        151.3,
        (84.8, 64.9),
        (57.9, 39.9),
        "MIT",
    ),
    KnownModel(
        "ViT-B-32",
        "openai",
        "timm/vit_base_patch32_clip_224.openai",
        151.3,
        (78.9, 58.8),
        (50.1, 30.4),
        "MIT (code; for the weights none is stated)",
    ),
    KnownModel(
        "ViT-B-16",
        "laion2b_s34b_b88k",
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        149.6,
        (86.3, 69.8),
        (59.4, 42.3),
        "MIT",
    ),
    KnownModel(
        "ViT-B-16",
        "datacomp_xl_s13b_b90k",
        "laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
        149.6,
        (85.1, 67.6),
        (57.4, 40.2),
        "MIT",
    ),
    KnownModel(
        "EVA02-B-16",
        "merged2b_s8b_b131k",
        "timm/eva02_base_patch16_clip_224.merged2b_s8b_b131k",
        149.7,
        (86.0, 71.5),
        (58.7, 42.1),
        "MIT",
    ),
    KnownModel("ViT-B-16-SigLIP", "webli", "timm/ViT-B-16-SigLIP", 203.2, (89.1, 74.7), (65.7, 47.8), "Apache-2.0"),
    KnownModel("ViT-B-32-SigLIP2-256", "webli", "timm/ViT-B-32-SigLIP2-256", 375.2, None, (63.7, 47.2), "Apache-2.0"),
    KnownModel(
        "ViT-L-14",
        "laion2b_s32b_b82k",
        "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        427.6,
        (89.5, 75.5),
        (63.4, 46.5),
        "MIT",
    ),
    KnownModel(
        "MobileCLIP2-S0",
        "dfndr2b",
        "timm/MobileCLIP2-S0-OpenCLIP",
        74.8,
        (86.6, 69.2),
        (62.7, 43.7),
        _APPLE,
        non_commercial=True,
    ),
    KnownModel(
        "MobileCLIP2-S2",
        "dfndr2b",
        "timm/MobileCLIP2-S2-OpenCLIP",
        99.1,
        (90.4, 74.8),
        (66.7, 48.8),
        _APPLE,
        non_commercial=True,
    ),
    KnownModel(
        "MobileCLIP-B",
        "datacompdr",
        "apple/MobileCLIP-B-OpenCLIP",
        149.7,
        (91.4, 77.3),
        (68.8, 50.6),
        _APPLE,
        non_commercial=True,
    ),
)


def known_model(name: str) -> KnownModel | None:
    """The model of a short name, of `ARCHITECTURE/PRETRAINED`, of `hf-hub:ORG/NAME`, or of its directory's name in the
    store; None for an unknown one."""
    for each in KNOWN:
        if name in (each.short, each.name, each.directory, f"{HUB_PREFIX}{each.repository}"):
            return each
    return None


def short_names() -> list[str]:
    """What the recommended models are called for short."""
    return [each.short for each in KNOWN if each.short]


def nearest_names(name: str, names: Iterable[str]) -> list[str]:
    """Up to three of `names` that are most like `name`; the short names where none is like it."""
    lower = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.4)
    return [lower[each] for each in close] or short_names()


def known_names() -> list[str]:
    """The short names, then every model's own name."""
    return [*short_names(), *(each.name for each in KNOWN)]
