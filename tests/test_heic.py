"""HEIC's own parameters and files; what holds for every codec is in test_codecs.py."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
from conftest import flat_to_busy
from PIL import Image as PilImage

from imagecompression.avif import Avif
from imagecompression.codec import CodecError
from imagecompression.heic import PRESETS, SUBSAMPLINGS, TUNES, Heic
from imagecompression.metrics import psnr
from imagecompression.x265 import fractional_crf


def hevc_configuration(data: bytes) -> tuple[str, int]:
    """Chroma format and luma bits from hvcC (ISO/IEC 14496-15, section 8.3.3.1)."""
    assert data.count(b"hvcC") == 1
    content = data[data.index(b"hvcC") + 4 :]
    return ("4:0:0", "4:2:0", "4:2:2", "4:4:4")[content[16] & 3], 8 + (content[17] & 7)


def from_elsewhere(mode: str, picture: np.ndarray, **options: object) -> bytes:
    """A file as another program writes it with libheif."""
    out = io.BytesIO()
    size = (picture.shape[1], picture.shape[0])
    pillow_heif.encode(mode, size, picture.tobytes(), out, quality=90, **options)
    return out.getvalue()


@pytest.mark.parametrize("bit_depth", [8, 10])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_file_has_the_format_asked_for(
    rgb: np.ndarray, gray: np.ndarray, subsampling: str, bit_depth: int
) -> None:
    codec = Heic(80, subsampling=subsampling, bit_depth=bit_depth, preset="ultrafast")
    data = codec.encode(rgb)
    assert hevc_configuration(data) == (subsampling, bit_depth)
    assert psnr(rgb, Heic.decode(data)) > 30
    data = codec.encode(gray)
    assert hevc_configuration(data) == ("4:0:0", bit_depth)
    assert psnr(gray, Heic.decode(data)) > 35


def test_presets_and_tunes_change_the_file(gray: np.ndarray) -> None:
    assert len({Heic(preset=preset).encode(gray) for preset in PRESETS[:7]}) >= 5
    assert len({Heic(tune=tune, preset="fast").encode(gray) for tune in TUNES}) == len(TUNES)


def test_libheif_knows_even_qualities_alone(rgb: np.ndarray) -> None:
    best = [Heic.decode(Heic(quality).encode(rgb)) for quality in (94, 96, 100)]
    assert not np.array_equal(best[0], best[1])
    assert np.array_equal(best[1], best[2])
    grain = {Heic(quality, tune="grain").encode(rgb) for quality in (49, 49.25, 50)}
    assert len(grain) == 1
    assert Heic(tune="grain").knob.step == 2
    assert Heic.knob.step < 2


@pytest.mark.parametrize("tune", ["ssim", "fastdecode", "psnr"])
@pytest.mark.parametrize("quality", [20, 50, 80])
def test_values_between_even_qualities_lie_between(tune: str, quality: int) -> None:
    picture = flat_to_busy(320, 448)
    sizes = [
        len(Heic(quality + part, tune=tune, preset="fast").encode(picture))
        for part in (0, 0.25, 0.75, 1.25, 1.75, 2)
    ]
    step = sizes[-1] - sizes[0]
    assert step > 0.02 * sizes[0]
    # Nothing jumps: the values beside the even ones are near them.
    assert abs(sizes[1] - sizes[0]) < 0.4 * step
    assert abs(sizes[-1] - sizes[-2]) < 0.4 * step
    assert all(second >= first - 0.1 * step for first, second in itertools.pairwise(sizes))


def test_the_fraction_acts_where_x265_quantises_adaptively(rgb: np.ndarray) -> None:
    options = fractional_crf(25.0)
    assert {f"x265:{name}" for name in options} <= set(Heic(49.5)._rate())
    assert Heic(49.5).encode(rgb) not in (Heic(49.0).encode(rgb), Heic(50).encode(rgb))


def test_best_quality_is_lossy(gray: np.ndarray) -> None:
    assert not np.array_equal(Heic.decode(Heic(100).encode(gray)), gray)


def test_every_variant_is_told_from_other_files(rgb: np.ndarray, gray: np.ndarray) -> None:
    for variant in Heic.variants():
        for picture in (rgb[:33, :30], gray[:33, :30]):
            data = variant.encode(picture)
            assert Heic.matches(data)
            assert not Avif.matches(data)
    assert not Heic.matches(b"\0\0\0\x18ftypavif\0\0\0\0mif1avif")
    assert not Heic.matches(b"\0\0\0\x18ftypisom\0\0\0\0mp42avc1")
    assert Heic.matches(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic")


def test_files_of_other_encoders(rgb: np.ndarray, gray: np.ndarray) -> None:
    opaque = np.full((*rgb.shape[:2], 1), 90, np.uint8)
    assert psnr(rgb, Heic.decode(from_elsewhere("RGBA", np.dstack([rgb, opaque])))) > 30
    gray_alpha = np.dstack([gray, np.full(gray.shape, 90, np.uint8)])
    decoded = Heic.decode(from_elsewhere("LA", gray_alpha))
    assert decoded.shape == (*gray.shape, 3)
    assert psnr(gray, decoded[:, :, 1].copy()) > 30
    tiled = from_elsewhere("RGB", rgb, tile_size=64)
    assert b"grid" in tiled
    assert psnr(rgb, Heic.decode(tiled)) > 30


def test_rotation_of_the_file_is_applied(rgb: np.ndarray) -> None:
    exif = PilImage.Exif()
    exif[0x0112] = 6  # the first row is at the right side
    turned = from_elsewhere("RGB", rgb, exif=exif.tobytes())
    assert b"irot" in turned
    assert psnr(np.rot90(rgb, -1), Heic.decode(turned)) > 30


def test_deep_samples_are_rounded(rgb: np.ndarray) -> None:
    """From 10 and 12 bits to 8, the nearest value and not the one below."""
    for bits in (10, 12):
        deep = from_elsewhere("RGB;16", rgb * np.uint16(257), bit_depth=bits, chroma=444)
        assert hevc_configuration(deep) == ("4:4:4", bits)
        bias = Heic.decode(deep).astype(float) - rgb
        assert abs(bias.mean()) < 0.2


def test_size_in_the_header_is_checked(rgb: np.ndarray) -> None:
    data = Heic(preset="ultrafast").encode(rgb)
    size = rgb.shape[1].to_bytes(4, "big") + rgb.shape[0].to_bytes(4, "big")
    hostile = data.replace(size, (20_000).to_bytes(4, "big") * 2)
    assert hostile != data
    with pytest.raises(CodecError, match="Received: 20000×20000"):
        Heic.decode(hostile)
    small = data.replace(size, (16).to_bytes(4, "big") * 2)  # HEVC data of more pixels
    with pytest.raises(CodecError):
        Heic.decode(small)


def test_long_and_narrow_pictures_are_refused_cleanly(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CodecError, match="Received: 8192×2 pixels"):
        Heic().encode(np.zeros((2, 8192), np.uint8))
    assert capfd.readouterr() == ("", "")


def test_any_truncation_is_refused(gray: np.ndarray) -> None:
    data = Heic(preset="ultrafast").encode(gray)
    for length in range(0, len(data), 41):
        with pytest.raises(CodecError):
            Heic.decode(data[:length])


def test_pillow_is_left_alone() -> None:
    script = (
        "import numpy as np, PIL.Image\n"
        "PIL.Image.init()\n"
        "before = sorted(PIL.Image.OPEN), sorted(PIL.Image.EXTENSION)\n"
        "from imagecompression.heic import Heic\n"
        "Heic.decode(Heic().encode(np.zeros((9, 9), np.uint8)))\n"
        "assert before == (sorted(PIL.Image.OPEN), sorted(PIL.Image.EXTENSION))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
