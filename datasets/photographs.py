"""Real photographs that come inside registry packages, for the quick start and the tests.

Nothing is downloaded: the pictures lie in the wheels of scikit-image, scikit-learn and matplotlib.
Those that were once a JPEG are scaled down first, since at full size they would teach a classifier
that *uncompressed* pictures carry JPEG traces.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from imagecompression import Image
from imagecompression.errors import ImageCompressionError
from imagecompression.image_io import write_image

JPEG_DOWNSCALING = 2.87
"""Least factor that removed every JPEG trace where it was measured; kept off multiples of 0.5,
since whole factors leave a periodic trace."""


@dataclass(frozen=True)
class Photograph:
    """A photograph inside an installed package.

    Attributes:
        name: Name to give the TIFF; what stands before ``__`` is its scene.
        package: Import name of the package that brings it.
        file: Path below the package's folder.
        jpeg_history: Whether it was once a JPEG and must be scaled down.
    """

    name: str
    package: str
    file: str
    jpeg_history: bool


PHOTOGRAPHS = (
    Photograph("astronaut", "skimage", "data/astronaut.png", False),
    Photograph("coffee", "skimage", "data/coffee.png", False),
    Photograph("motorcycle__left", "skimage", "data/motorcycle_left.png", False),
    Photograph("motorcycle__right", "skimage", "data/motorcycle_right.png", False),
    Photograph("hubble", "skimage", "data/hubble_deep_field.jpg", True),
    Photograph("retina", "skimage", "data/retina.jpg", True),
    Photograph("rocket", "skimage", "data/rocket.jpg", True),
    Photograph("chelsea", "skimage", "data/chelsea.png", True),
    Photograph("china", "sklearn", "datasets/images/china.jpg", True),
    Photograph("flower", "sklearn", "datasets/images/flower.jpg", True),
    Photograph("hopper", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg", True),
)
"""Known photographs. Other pictures of scikit-image are gray, drawn, or carry JPEG traces."""


class PhotographError(ImageCompressionError):
    """A package that brings photographs is missing."""


def read_photograph(photograph: Photograph) -> Image:
    """The photograph as RGB `uint8` `(H, W, 3)`, scaled down where it has a JPEG history.

    Raises:
        PhotographError: The package or the file in it is missing.
    """
    spec = importlib.util.find_spec(photograph.package)
    path = Path(spec.origin).parent / photograph.file if spec and spec.origin else None
    if path is None or not path.is_file():
        raise PhotographError(
            f"The photograph {photograph.name} is missing: {photograph.package} has no "
            f"{photograph.file}. Install the extra 'photographs' (pip install '.[photographs]')."
        )
    with PilImage.open(path) as picture:
        rgb = picture.convert("RGB")
    if photograph.jpeg_history:
        size = (int(rgb.width / JPEG_DOWNSCALING), int(rgb.height / JPEG_DOWNSCALING))
        rgb = rgb.resize(size, PilImage.Resampling.LANCZOS)
    return np.array(rgb)


def write_photographs(folder: Path) -> list[Path]:
    """Write all `PHOTOGRAPHS` as TIFF files into `folder` and return their paths.

    Raises:
        PhotographError: See `read_photograph`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for photograph in PHOTOGRAPHS:
        path = folder / f"{photograph.name}.tif"
        write_image(path, read_photograph(photograph))
        paths.append(path)
    return paths
