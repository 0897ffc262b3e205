"""Alpha and metadata on their way from file to file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import photograph_like
from PIL import Image as PilImage
from PIL import ImageCms

from imagecompression import CODECS, Codec, CodecError, Extras, read_image, write_image
from imagecompression.image_io import load_extras
from imagecompression.lossless import Lossless
from imagecompression.metrics import psnr
from imagecompression.transcoding import compress_file, decompress_file

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PICTURE = photograph_like(30, 40, 3)
ALPHA = photograph_like(30, 40, 1, seed=9)


def exif() -> bytes:
    block = PilImage.Exif()
    block[0x010F] = "maker"
    return block.tobytes().removeprefix(b"Exif\0\0")


EXTRAS = Extras(alpha=ALPHA, exif=exif(), icc=ICC, xmp=b"<x:xmpmeta/>")


def assert_same(found: Extras, wanted: Extras) -> None:
    assert found.held() == wanted.held()
    assert (found.exif, found.icc, found.xmp) == (wanted.exif, wanted.icc, wanted.xmp)
    if wanted.alpha is not None:
        assert np.array_equal(found.alpha, wanted.alpha)


KEEPING = [codec for codec in CODECS.values() if codec.keeps]


@pytest.mark.parametrize("codec", KEEPING, ids=lambda codec: codec.name)
@pytest.mark.parametrize("picture", [PICTURE, PICTURE[..., 0].copy()], ids=["rgb", "gray"])
def test_a_codec_keeps_what_it_says(codec: type[Codec], picture: np.ndarray) -> None:
    wanted = EXTRAS.only(codec.keeps)
    data = codec().encode_with(picture, wanted)
    pixels, found = codec.decode_with(data)
    assert codec.matches(data)
    assert np.array_equal(pixels, codec.decode(data))
    assert pixels.shape == picture.shape
    assert found.held() == wanted.held() or picture.ndim == 2
    if "alpha" in codec.keeps:
        assert psnr(ALPHA, found.alpha) > 25
    assert found.xmp == wanted.xmp
    if picture.ndim == 3:
        assert found.icc == wanted.icc
        assert found.exif == wanted.exif


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_a_codec_refuses_what_it_cannot_keep(codec: type[Codec]) -> None:
    for name in EXTRAS.held():
        if name not in codec.keeps:
            with pytest.raises(CodecError, match=name):
                codec().encode_with(PICTURE, EXTRAS.only(frozenset({name})))


@pytest.mark.parametrize("picture", [PICTURE, PICTURE[..., 0].copy()], ids=["rgb", "gray"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_written_extras_are_read(suffix: str, picture: np.ndarray, tmp_path: Path) -> None:
    wanted = EXTRAS if suffix == ".png" else EXTRAS.only(frozenset({"alpha", "icc", "xmp"}))
    if picture.ndim == 2:  # an RGB profile is no profile of gray samples
        wanted = wanted.only(frozenset({"alpha", "exif", "xmp"}))
    path = tmp_path / f"picture{suffix}"
    write_image(path, picture, wanted)
    assert np.array_equal(read_image(path), picture)
    assert_same(load_extras(path), wanted)


def test_extras_that_a_codec_cannot_keep_are_reported(tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    write_image(source, PICTURE, EXTRAS)
    done = compress_file(source, tmp_path / "out.jpg", None, None, None, ["quality=80"])
    assert {"alpha dropped", "exif kept", "icc kept", "xmp kept"} <= set(done.notes)
    done = compress_file(source, tmp_path / "out.jp2", None, None, None, ["ratio=5"])
    assert {"alpha dropped", "exif dropped", "icc dropped", "xmp dropped"} <= set(done.notes)
    opened = decompress_file(source, tmp_path / "out.tif")
    assert {"alpha kept", "exif dropped", "icc kept", "xmp kept"} <= set(opened.notes)
    assert tifffile.imread(tmp_path / "out.tif").shape == (30, 40, 4)


def test_unreadable_metadata_do_not_stop_the_colours(tmp_path: Path) -> None:
    path = tmp_path / "png.tif"  # a method that Pillow does not know
    tifffile.imwrite(path, PICTURE, photometric="rgb", compression="png")
    done = compress_file(path, tmp_path / "out.png", "uncompressed", None, None, [])
    assert "metadata unreadable, dropped" in done.notes


def test_a_turned_tiff_turns_its_alpha(tmp_path: Path) -> None:
    path = tmp_path / "turned.tif"
    samples = np.dstack((PICTURE, ALPHA))
    tag = (274, 3, 1, 6, True)
    tifffile.imwrite(path, samples, photometric="rgb", extrasamples=["unassalpha"], extratags=[tag])
    assert np.array_equal(read_image(path), np.rot90(PICTURE, -1))
    assert np.array_equal(load_extras(path).alpha, np.rot90(ALPHA, -1))


def test_premultiplied_alpha_of_a_tiff_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "premultiplied.tif"
    tifffile.imwrite(
        path, np.dstack((PICTURE, ALPHA)), photometric="rgb", extrasamples=["assocalpha"]
    )
    assert load_extras(path).alpha is None


def test_a_profile_of_other_colours_is_left_out(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    PilImage.fromarray(PICTURE).save(tmp_path / "lab.png", icc_profile=lab)
    assert load_extras(tmp_path / "lab.png").held() == ()


def test_extras_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CodecError, match="Alpha must be"):
        Lossless().encode_with(PICTURE, Extras(alpha=ALPHA[:5]))
