"""The demo's photographs: which installed packages carry them, under which names, and what a person sees on them.

mmsearch ships no photographs. The extra `demo` installs packages that do, and only their files are read: importing
them would cost seconds and need much more of them than a few pictures.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from mmsearch.errors import MissingExtra

# What is imported -> what is installed; the extra `demo` names the same packages.
DISTRIBUTIONS = {"skimage": "scikit-image", "foolbox": "foolbox"}


@dataclass(frozen=True, slots=True)
class DemoPhoto:
    """One photograph. `file` is what the demo calls it, `module` and `source` where an installed package keeps it,
    `captions` two sentences by a person who looked at it."""

    file: str
    module: str
    source: str
    captions: tuple[str, str]


def find_photos() -> tuple[tuple[DemoPhoto, Path], ...]:
    """Every photograph of `PHOTOS` with the path of its file, in that order.

    Raises:
        MissingExtra: a package is not installed, or its version lacks a photograph.
    """
    folders = {module: _folder(module) for module in DISTRIBUTIONS}
    found = tuple((photo, folders[photo.module] / photo.source) for photo in PHOTOS)
    for photo, path in found:
        if not path.is_file():
            raise MissingExtra(
                f"the demo's photographs are not complete: the installed {DISTRIBUTIONS[photo.module]} has no"
                f" {photo.source}; install a version that has it with: pip install --upgrade 'mmsearch[demo]'"
            )
    return found


def _folder(module: str) -> Path:
    """The folder of a package, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(
            f"the demo's photographs are not installed: the package {DISTRIBUTIONS[module]} is missing;"
            " it comes with the extra 'demo', install it with: pip install 'mmsearch[demo]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _photo(file: str, module: str, source: str, caption: str, other_caption: str) -> DemoPhoto:
    return DemoPhoto(file, module, source, (caption, other_caption))


PHOTOS: tuple[DemoPhoto, ...] = (
    _photo(
        "astronaut.png",
        "skimage",
        "data/astronaut.png",
        "A smiling woman in an orange space suit sits in front of an American flag",
        "A portrait of an astronaut with her helmet and a model of the space shuttle",
    ),
    _photo(
        "photographer.png",
        "skimage",
        "data/camera.png",
        "A man in a dark coat bends to look through a camera on a tripod",
        "Someone films on a wide lawn with a city in the distance, in black and white",
    ),
    _photo(
        "cat.png",
        "skimage",
        "data/chelsea.png",
        "A close look at the face of a tabby cat with yellow-green eyes",
        "A ginger cat with long white whiskers",
    ),
    _photo(
        "coffee.png",
        "skimage",
        "data/coffee.png",
        "A cup of espresso on a red saucer with a small spoon",
        "Coffee served on a wooden table",
    ),
    _photo(
        "coins.png",
        "skimage",
        "data/coins.png",
        "Ancient coins laid out in rows on a dark background",
        "A collection of old worn coins, in black and white",
    ),
    _photo(
        "motorcycle.png",
        "skimage",
        "data/motorcycle_left.png",
        "A red motorcycle parked in a garage",
        "A motorbike stands in front of shelves with boxes",
    ),
    _photo(
        "rocket.jpg",
        "skimage",
        "data/rocket.jpg",
        "A white rocket stands on its launch pad at dusk",
        "Floodlights shine on a rocket between tall steel towers",
    ),
    _photo(
        "galaxies.jpg",
        "skimage",
        "data/hubble_deep_field.jpg",
        "Hundreds of distant galaxies on a black sky",
        "Stars and galaxies in deep space seen through a telescope",
    ),
    _photo(
        "bricks.png",
        "skimage",
        "data/brick.png",
        "Bricks laid in even rows with light mortar between them",
        "A brick wall, in black and white",
    ),
    _photo(
        "tan-dog.jpg",
        "foolbox",
        "data/imagenet_00_243.jpg",
        "A big tan dog with a black muzzle on a green leash",
        "A dog stands on the grass beside a person in shorts",
    ),
    _photo(
        "deck-chairs.jpg",
        "foolbox",
        "data/imagenet_01_559.jpg",
        "Empty red deck chairs with wooden frames on a concrete floor",
        "Red folding chairs stand in a circle",
    ),
    _photo(
        "laboratory.jpg",
        "foolbox",
        "data/imagenet_02_438.jpg",
        "A hand pours a green liquid from a brown bottle into a glass beaker",
        "Someone with painted nails works in a laboratory",
    ),
    _photo(
        "horse-chestnuts.jpg",
        "foolbox",
        "data/imagenet_03_990.jpg",
        "Spiky green horse chestnuts hang from a branch",
        "The prickly fruit of a tree, one of them split open",
    ),
    _photo(
        "strawberries.jpg",
        "foolbox",
        "data/imagenet_04_949.jpg",
        "Small red strawberries scattered on a white board",
        "Nine strawberries without leaves",
    ),
    _photo(
        "cottages.jpg",
        "foolbox",
        "data/imagenet_05_853.jpg",
        "Old white cottages with thatched roofs beside a village green",
        "A stone memorial on a lawn in front of half-timbered houses",
    ),
    _photo(
        "off-road-car.jpg",
        "foolbox",
        "data/imagenet_06_609.jpg",
        "An off-road car on a gravel road in the mountains",
        "A dusty car in a barren landscape, in brown tones",
    ),
    _photo(
        "blue-car.jpg",
        "foolbox",
        "data/imagenet_07_609.jpg",
        "A blue car drives down a steep slope of rocks",
        "A shiny car stands tilted on boulders in front of a forest",
    ),
    _photo(
        "yurts.jpg",
        "foolbox",
        "data/imagenet_08_915.jpg",
        "Round tents on wooden platforms among tall pine trees",
        "Two yurts in the woods with some snow on the deck",
    ),
    _photo(
        "bottle-cap.jpg",
        "foolbox",
        "data/imagenet_09_455.jpg",
        "A red beer bottle cap painted on a white wall",
        "A picture of a bottle cap with drops of water on it",
    ),
    _photo(
        "shoe.jpg",
        "foolbox",
        "data/imagenet_11_630.jpg",
        "A shiny black leather shoe with laces",
        "A man's dress shoe on a white background",
    ),
    _photo(
        "stained-glass.jpg",
        "foolbox",
        "data/imagenet_12_741.jpg",
        "Two stained glass windows glow in many colours",
        "Colourful patterned windows in a richly decorated wall",
    ),
    _photo(
        "cannon.jpg",
        "foolbox",
        "data/imagenet_13_471.jpg",
        "An old cannon on two large spoked wheels",
        "A historic field gun stands on a paved square",
    ),
    _photo(
        "birds-on-a-wire.jpg",
        "foolbox",
        "data/imagenet_14_129.jpg",
        "Two white birds perch on a power line",
        "Birds with long beaks sit on a wire under a grey sky",
    ),
    _photo(
        "geese.jpg",
        "foolbox",
        "data/imagenet_15_99.jpg",
        "Three brown geese walk across green grass",
        "A group of geese on a sunny lawn",
    ),
    _photo(
        "dalmatian.jpg",
        "foolbox",
        "data/imagenet_16_251.jpg",
        "A black and white spotted dog sniffs at the ground",
        "A dalmatian with a collar lowers its head over dry twigs",
    ),
    _photo(
        "eagle.jpg",
        "foolbox",
        "data/imagenet_17_22.jpg",
        "A bald eagle flies with its wings spread wide",
        "A large bird of prey glides straight towards the camera",
    ),
    _photo(
        "leafhopper.jpg",
        "foolbox",
        "data/imagenet_18_317.jpg",
        "A small striped insect with red eyes on a green leaf",
        "An insect with orange and white markings seen from very near",
    ),
    _photo(
        "beetle.jpg",
        "foolbox",
        "data/imagenet_19_305.jpg",
        "A shiny black beetle crawls over a stone",
        "A dark beetle seen from very near",
    ),
)
