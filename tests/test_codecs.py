"""The contract kit: every entry of `CODECS` runs every check, with no opt-out."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import photograph_like

from imagecompression import (
    CODECS,
    CodecError,
    CodecUnavailableError,
    codec_from_params,
    read_image,
)
from imagecompression.codec import MAX_PIXELS, Codec
from imagecompression.metrics import psnr

SHAPES = [
    (1, 1), (1, 1, 3), (1, 2, 3), (2, 1), (3, 5, 3), (7, 7), (8, 8, 3), (9, 17, 3), (15, 16),
    (16, 16, 3), (17, 15, 3), (1, 300, 3), (300, 1), (33, 64, 3), (63, 65),
]  # fmt: skip


@pytest.fixture(params=CODECS.values(), ids=CODECS.keys())
def codec(request: pytest.FixtureRequest) -> type[Codec]:
    """Each codec; a missing library skips on a user's machine and fails in CI."""
    kind: type[Codec] = request.param
    try:
        kind.check_available()
    except CodecUnavailableError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return kind


def pictures(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A natural, a constant and a noise picture of one shape."""
    channels = 3 if len(shape) == 3 else 1
    noise = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    return {
        "natural": photograph_like(shape[0], shape[1], channels),
        "constant": np.full(shape, 201, np.uint8),
        "noise": noise,
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trip_keeps_shape_at_any_size(codec: type[Codec], shape: tuple[int, ...]) -> None:
    for name, picture in pictures(shape).items():
        before = picture.copy()
        data = codec().encode(picture)
        decoded = codec.decode(data)
        assert isinstance(data, bytes)
        assert (decoded.dtype, decoded.shape) == (np.uint8, shape), name
        assert decoded.flags.c_contiguous
        assert np.array_equal(picture, before), "the input was changed"
        if name == "constant":
            assert np.abs(decoded.astype(int) - picture).max() <= 3


@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_of_a_large_picture(codec: type[Codec], channels: int) -> None:
    picture = photograph_like(1500, 2000, channels)
    best = (
        codec().with_knob(codec.knob.value(codec.knob.last_index // 2)) if codec.knob else codec()
    )
    decoded = codec.decode(best.encode(picture))
    assert decoded.shape == picture.shape
    assert psnr(picture, decoded) > 20


def test_every_variant_encodes_gray_and_colour(
    codec: type[Codec], rgb: np.ndarray, gray: np.ndarray
) -> None:
    variants = codec.variants()
    assert len(set(variants)) == len(variants) > 0
    for variant in variants:
        for picture in (rgb[:61, :47], gray[:61, :47]):
            decoded = codec.decode(variant.encode(picture))
            assert decoded.shape == picture.shape
            assert psnr(picture, decoded) > 17, variant


def test_same_input_same_bytes(codec: type[Codec], rgb: np.ndarray) -> None:
    assert codec().encode(rgb) == codec().encode(rgb.copy())


def test_same_bytes_and_pixels_in_another_process_with_another_thread_count(
    codec: type[Codec],
) -> None:
    picture = photograph_like(300, 411, 3)
    script = (
        "import sys, hashlib, numpy as np\n"
        "from imagecompression import CODECS\n"
        f"picture = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape({picture.shape})\n"
        f"data = CODECS[{codec.name!r}]().encode(picture)\n"
        f"pixels = CODECS[{codec.name!r}].decode(data)\n"
        "print(hashlib.sha256(data + pixels.tobytes()).hexdigest())\n"
    )
    digests = set()
    for threads in ("1", "2"):
        environment = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-c", script], input=picture.tobytes(), env=environment,
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip
        digests.add(done.stdout)
    assert len(digests) == 1


def test_views_encode_like_copies(codec: type[Codec], rgb: np.ndarray) -> None:
    for view in (rgb[::2, ::3], rgb[:, ::-1], rgb.transpose(1, 0, 2), rgb[:, :, 1]):
        assert codec().encode(view) == codec().encode(np.ascontiguousarray(view))


def test_parameters_survive_json(codec: type[Codec]) -> None:
    for variant in codec.variants():
        params = json.loads(json.dumps(variant.params()))
        assert codec_from_params(codec.name, params) == variant
    with pytest.raises(CodecError, match="no_such_parameter"):
        codec_from_params(codec.name, {"no_such_parameter": 1})


def test_matches_its_own_files_alone(codec: type[Codec], rgb: np.ndarray, gray: np.ndarray) -> None:
    for picture in (rgb, gray):
        data = codec().encode(picture)
        matching = [name for name, other in CODECS.items() if other.matches(data)]
        assert matching == [codec.name]
    assert not codec.matches(b"")
    assert not codec.matches(b"plain text, no picture")


def test_size_rises_along_the_knob(codec: type[Codec], rgb: np.ndarray) -> None:
    knob = codec.knob
    if knob is None:
        with pytest.raises(CodecError, match="no knob"):
            codec().with_knob(1)
        return
    indices = np.unique(np.linspace(0, knob.last_index, 9).round().astype(int))
    values = [knob.value(int(index)) for index in indices]
    sizes = [len(codec().with_knob(value).encode(rgb)) for value in values]
    # 5 % and 64 bytes of slack: quantisers and entropy coders are not strictly monotone.
    assert all(b >= a * 0.95 - 64 for a, b in itertools.pairwise(sizes)), (values, sizes)
    assert sizes[-1] > 1.5 * sizes[0]
    assert min(values) == knob.low
    assert max(values) == knob.high


def test_fidelity_rises_along_the_knob(codec: type[Codec], rgb: np.ndarray) -> None:
    if codec.knob is None:
        assert np.array_equal(codec.decode(codec().encode(rgb)), rgb)
        return
    ends = (codec.knob.value(0), codec.knob.value(codec.knob.last_index))
    low, high = (psnr(rgb, codec.decode(codec().with_knob(value).encode(rgb))) for value in ends)
    assert high > low + 6


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.float32), np.zeros((4, 4), np.uint16), np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8), np.zeros((0, 4), np.uint8), np.zeros((4,), np.uint8),
        [[1, 2], [3, 4]],
    ],
    ids=["float", "uint16", "rgba", "one-channel", "empty", "1-d", "list"],
)  # fmt: skip
def test_images_outside_the_contract_are_refused(codec: type[Codec], bad: np.ndarray) -> None:
    with pytest.raises(CodecError, match="Received"):
        codec().encode(bad)


def test_low_fidelity_of_narrow_pictures_is_clean(
    codec: type[Codec], capfd: pytest.CaptureFixture[str]
) -> None:
    """Some libraries refuse narrow pictures, and say so on standard output."""
    smallest = codec().with_knob(codec.knob.value(0)) if codec.knob else codec()
    for shape in ((20, 1, 3), (20, 16), (1, 20, 3), (16, 17, 3)):
        picture = photograph_like(shape[0], shape[1], 3 if len(shape) == 3 else 1)
        try:
            assert codec.decode(smallest.encode(picture)).shape == shape
        except CodecError as error:
            assert "Received" in str(error)
    assert capfd.readouterr() == ("", "")


def test_damaged_files_are_refused(codec: type[Codec], rgb: np.ndarray) -> None:
    data = codec().encode(rgb)
    for damaged in (b"", data[:4], data[: len(data) // 20], b"\0" * 100, data[::-1]):
        with pytest.raises(CodecError):
            codec.decode(damaged)


def test_knob_values_out_of_range_are_refused(codec: type[Codec]) -> None:
    if codec.knob is None:
        with pytest.raises(CodecError, match="Received"):
            codec().with_knob(1)
        return
    for value in (codec.knob.low - 1, codec.knob.high + 1, "7", None, float("nan"), True):
        with pytest.raises(CodecError, match="Received"):
            codec().with_knob(value)


def test_class_facts(codec: type[Codec]) -> None:
    assert CODECS[codec.name] is codec
    assert codec.suffix.startswith(".")
    assert codec.version()
    assert dataclasses.is_dataclass(codec)
    with pytest.raises(dataclasses.FrozenInstanceError):
        codec().anything = 1  # type: ignore[attr-defined]
    assert MAX_PIXELS >= 12_000_000


def test_each_codec_has_a_golden_file(codec: type[Codec]) -> None:
    golden = Path(__file__).parent / "golden"
    files = [path for path in golden.iterdir() if path.is_file()]
    assert [path.name for path in files if codec.matches(path.read_bytes())]


def test_golden_files_decode_to_the_same_pixels() -> None:
    """Decoders are specified: a file of long ago gives the very pixels that it gave then."""
    golden = Path(__file__).parent / "golden"
    expected = json.loads((golden / "decoded.json").read_text(encoding="utf-8"))
    decoded = {file: read_image(golden / file).tobytes() for file in expected}
    assert {f: hashlib.sha256(pixels).hexdigest() for f, pixels in decoded.items()} == expected


def test_jpeg2000_without_a_library_is_unavailable() -> None:
    script = (
        "import ctypes.util\n"
        "ctypes.util.find_library = lambda name: None\n"
        "import imagecompression.jpeg2000 as jpeg2000\n"
        "jpeg2000._bundled_openjpeg = lambda: None\n"
        "from imagecompression import CodecUnavailableError, Jpeg2000\n"
        "try:\n"
        "    Jpeg2000.check_available()\n"
        "except CodecUnavailableError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert "OpenJPEG" in done.stdout
    assert "Install" in done.stdout


def test_jpeg2000_takes_the_library_of_the_wheels_before_the_systems() -> None:
    script = (
        "import ctypes.util\n"
        "ctypes.util.find_library = lambda name: f'/nowhere/lib{name}.so'\n"
        "from imagecompression import Jpeg2000\n"
        "Jpeg2000.check_available()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_jpeg2000_of_sixteen_bits_is_rounded_to_eight() -> None:
    import imagecodecs

    samples = np.random.default_rng(0).integers(0, 65536, (40, 50, 3), np.uint16)
    for picture in (samples, samples[:, :, 0].copy()):
        data = imagecodecs.jpeg2k_encode(picture, level=0, reversible=True)
        expected = (picture.astype(np.uint32) * 255 + 32767) // 65535
        assert np.array_equal(CODECS["jpeg2000"].decode(data), expected)
