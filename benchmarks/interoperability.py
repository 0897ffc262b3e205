"""Do other programs' decoders see in our files what ours sees?

Files of every codec in all its settings, of generated pictures and (with `--data`) of two more,
are decoded by each other decoder that an installed package brings, and compared with
`Codec.decode`. Prints a table, writes a CSV file and the tools' versions beside it, and exits with
1 where a difference is larger than the standards leave open, or a file is not read.

    python -m benchmarks.interoperability --data ../shared/data/kodak
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.environment import write_environment, write_table
from benchmarks.generated_picture import generated_picture
from imagecompression import CODECS, Image, read_image
from imagecompression.bit_depth import to_8_bits
from imagecompression.bpg_container import CHROMA_FORMAT_IDC, parse_bpg
from imagecompression.hevc import START_CODE, build_vps, first_picture, nal_type, split_nals
from imagecompression.metrics import luma

MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Weights of red and blue in luma by FFmpeg's number of the colour space."""
BT601 = 5

Difference = Callable[[bytes, Image], float]
"""Largest difference, in 8-bit levels, of a decoder's samples from our decoded picture."""


@dataclass(frozen=True)
class Witness:
    """Another decoder of a codec's files.

    Attributes:
        codec: Registry name.
        decoder: Its name.
        code: ``"independent"``, or ``"same library"`` in another build.
        compared: Which samples.
        difference: Decodes a file and compares.
        allowed: Largest difference that counts as agreement.
        reason: Why it may differ; empty where it must not.
        applies: Whether a file is compared, by its codec's parameters and its picture.
    """

    codec: str
    decoder: str
    code: str
    compared: str
    difference: Difference
    allowed: float = 0.0
    reason: str = ""
    applies: Callable[[dict[str, Any], Image], bool] = lambda params, source: True


@dataclass(frozen=True)
class Row:
    """One line of the table: a codec's files by one other decoder.

    Attributes:
        files: Files that were compared.
        same: Files whose compared samples were all equal.
        max_difference: Largest difference of a sample, in 8-bit levels.
    """

    codec: str
    decoder: str
    code: str
    compared: str
    files: int
    same: int
    max_difference: float | None
    allowed: float | None
    reason: str
    status: str


# --- other decoders --------------------------------------------------------------------------


def pixels_by(decode: Callable[[bytes], npt.NDArray[Any]]) -> Difference:
    """Compare all samples of a decoder that gives gray or RGB.

    Where it gives RGB for our gray, green is compared: of a gray WebP, which is coded in YCbCr,
    we take the green samples, too.
    """

    def difference(data: bytes, image: Image) -> float:
        theirs = decode(data).astype(int)
        if theirs.ndim > image.ndim:
            theirs = theirs[..., 1]
        return float(np.abs(theirs - image).max())

    return difference


def luma_gap(first: npt.NDArray[np.float64], image: Image, slack: float) -> float:
    """Largest difference of a luma plane from that of `image`, rounded up.

    Args:
        first: Luma `(H, W)`, 0 … 255, not rounded.
        image: RGB `(H, W, 3)`; where a sample is 0 or 255 it may have been clipped, and its luma
            means nothing.
        slack: How far off the lumas may be because they were computed from rounded colours.
    """
    inside = ((image > 0) & (image < 255)).all(axis=2)
    gap = np.maximum(np.abs(first - luma(image)) - slack, 0)
    return float(np.ceil(gap[inside].max(initial=0.0)))


def opencv(data: bytes) -> npt.NDArray[Any]:
    """RGB by OpenCV; it prints nothing where it cannot read, and gives None."""
    import cv2

    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if decoded is None:
        raise ValueError("OpenCV does not read it")
    return decoded[..., ::-1]


def by_imagecodecs(name: str) -> Callable[[bytes], npt.NDArray[Any]]:
    """The decoder `name` of imagecodecs; 10 bits are rounded to 8."""

    def decode(data: bytes) -> npt.NDArray[Any]:
        import imagecodecs

        samples = np.asarray(getattr(imagecodecs, f"{name}_decode")(data))
        return samples if samples.dtype == np.uint8 else to_8_bits(samples, 10)

    return decode


def by_glymur(data: bytes) -> npt.NDArray[Any]:
    """JPEG 2000 by glymur, which reads files only."""
    import tempfile

    import glymur

    with tempfile.NamedTemporaryFile(suffix=".jp2") as file:
        Path(file.name).write_bytes(data)
        return np.asarray(glymur.Jp2k(file.name)[:])


def by_libjpeg_9d(data: bytes, image: Image) -> float:
    """Compare with JPEG by the Independent JPEG Group's own library.

    Of subsampled chroma, which it interpolates otherwise, the luma alone is compared.
    """
    import tempfile

    import jpeglib

    with jpeglib.version("9d"), tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        Path(file.name).write_bytes(data)
        jpeg = jpeglib.read_spatial(file.name)
        theirs = np.asarray(jpeg.spatial)
        sampling = jpeg.samp_factor
    if image.ndim == 2 or len({tuple(factor) for factor in sampling}) == 1:
        theirs = theirs[..., 0] if image.ndim == 2 else theirs
        return float(np.abs(theirs.astype(int) - image).max())
    clipped = (theirs == 0) | (theirs == 255)
    return luma_gap(luma(theirs), np.where(clipped, theirs, image), slack=1.0)


def ffmpeg_frame(data: bytes) -> Any:
    """The first frame of a file by FFmpeg."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        return next(container.decode(video=0))


def frame_planes(frame: Any) -> list[npt.NDArray[np.float64]]:
    """Planes of a gray or YCbCr frame, 0 … 255 and full range, not rounded; chroma around 0."""
    bits = frame.format.components[0].bits
    sample = np.dtype(np.uint8 if bits == 8 else "<u2")
    limited = frame.color_range == 1
    planes = []
    for number, plane in enumerate(frame.planes):
        lines = np.frombuffer(plane, sample).reshape(-1, plane.line_size // sample.itemsize)
        values = lines[: plane.height, : plane.width].astype(np.float64)
        scale = 2.0 ** (bits - 8)
        if number:
            values -= 128 * scale
            values *= 255 / (224 * scale if limited else 2.0**bits - 1)
        elif limited:
            values = (values - 16 * scale) * 255 / (219 * scale)
        else:
            values *= 255 / (2.0**bits - 1)
        planes.append(values)
    return planes


def by_ffmpeg(data: bytes, image: Image) -> float:
    """Compare with FFmpeg, without its scaler: it converts colours in its own way.

    RGB and gray are compared as they are. Of 4:4:4 the RGB colours are computed here, and of
    subsampled chroma the luma alone is compared, where our picture is not clipped.
    """
    frame = ffmpeg_frame(data)
    name = frame.format.name
    if not name.startswith(("yuv", "gray")):
        return pixels_by(lambda _: frame.to_ndarray(format="rgb24"))(data, image)
    planes = frame_planes(frame)
    # FFmpeg leaves in what a HEIF file says to crop.
    height, width = image.shape[:2]
    full = planes[0].shape
    planes = [plane[:height, :width] if plane.shape == full else plane for plane in planes]
    if image.ndim == 2:
        return float(np.abs(np.rint(np.clip(planes[0], 0, 255)) - image).max())
    if planes[1].shape == planes[0].shape:
        red_weight, blue_weight = MATRICES.get(int(frame.colorspace), MATRICES[BT601])
        y, blue, red = planes
        red = y + 2 * (1 - red_weight) * red
        blue = y + 2 * (1 - blue_weight) * blue
        green = (y - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
        colors = np.clip(np.rint(np.stack((red, green, blue), axis=-1)), 0, 255)
        return float(np.abs(colors - image).max())
    return luma_gap(planes[0], image, slack=0.5)


def box(kind: bytes, *content: bytes) -> bytes:
    """A box of the ISO base media file format (ISO/IEC 14496-12)."""
    joined = b"".join(content)
    return struct.pack(">I4s", 8 + len(joined), kind) + joined


def full_box(kind: bytes, *content: bytes, version: int = 0) -> bytes:
    """A box with version and flags."""
    return box(kind, struct.pack(">I", version << 24), *content)


def heif_of_bpg(data: bytes) -> tuple[bytes, list[bytes]]:
    """A BPG file's HEVC picture as a HEIF file, and its NAL units with VPS and SPS.

    The HEIF file says that 4:4:4 planes are green, blue and red, so that they come out as coded.
    """
    bpg = parse_bpg(data)
    idc = CHROMA_FORMAT_IDC[bpg.pixel_format]
    width, height = bpg.header.coded_side(bpg.width), bpg.header.coded_side(bpg.height)
    sps = bpg.header.to_sps(width, height, idc, bpg.bit_depth)
    units = [build_vps(), sps, *first_picture(split_nals(bpg.hevc_data), 0)]
    parameter_sets, slices = units[:3], units[3:]
    depth = 0xF8 | bpg.bit_depth - 8
    configuration = bytes(
        [1, 4, 8, *(0,) * 9, 255, 0xF0, 0, 0xFC, 0xFC | idc, depth, depth, 0, 0, 0x0F]
    )
    configuration += bytes([len(parameter_sets)])
    for unit in parameter_sets:
        configuration += struct.pack(">BHH", 0x80 | nal_type(unit), 1, len(unit)) + unit
    matrix = 0 if idc == 3 else 6
    properties = box(
        b"ipco",
        box(b"hvcC", configuration),
        full_box(b"ispe", struct.pack(">II", width, height)),
        box(b"colr", b"nclx", struct.pack(">HHHB", 2, 2, matrix, 128)),
    )
    associations = full_box(b"ipma", struct.pack(">IHBBBB", 1, 1, 3, 0x81, 2, 3))
    body = b"".join(struct.pack(">I", len(unit)) + unit for unit in slices)

    def meta(offset: int) -> bytes:
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", struct.pack(">H", 1)),
            full_box(b"iloc", b"\x44\0", struct.pack(">HHHHII", 1, 1, 0, 1, offset, len(body))),
            full_box(
                b"iinf",
                struct.pack(">H", 1),
                full_box(b"infe", struct.pack(">HH", 1, 0), b"hvc1\0", version=2),
            ),
            box(b"iprp", properties, associations),
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    offset = len(head) + len(meta(0)) + 8
    return head + meta(offset) + box(b"mdat", body), units


def hevc_planes_by_libde265(data: bytes, image: Image) -> float:
    """Compare libde265's planes of a BPG file with FFmpeg's, from which we make the picture.

    Of subsampled chroma, which libheif would interpolate, the luma alone is compared.
    """
    import av
    import pillow_heif

    heif, units = heif_of_bpg(data)
    decoder = av.CodecContext.create("hevc", "r")
    packet = av.Packet(b"".join(START_CODE + unit for unit in units))
    frame: Any = [*decoder.decode(packet), *decoder.decode(None)][0]
    bits = frame.format.components[0].bits
    sample = np.dtype(np.uint8 if bits == 8 else "<u2")
    ours = []
    for plane in frame.planes:
        lines = np.frombuffer(plane, sample).reshape(-1, plane.line_size // sample.itemsize)
        ours.append(lines[: plane.height, : plane.width].astype(int))
    file = pillow_heif.open_heif(io.BytesIO(heif), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    theirs = np.array(file[0]).astype(int)
    if theirs.ndim == 2:
        theirs = theirs[..., None]
    if len(ours) == 1:
        pairs = [(ours[0], theirs[..., 0])]
    elif ours[1].shape == ours[0].shape:
        pairs = list(zip(ours, (theirs[..., 1], theirs[..., 2], theirs[..., 0]), strict=True))
    else:
        # libheif has clipped colours outside of RGB.
        inside = ((theirs > 0) & (theirs < 2**bits - 1)).all(axis=2)
        computed = np.rint(theirs @ [0.299, 0.587, 0.114]).astype(int)
        pairs = [(ours[0][inside], computed[inside])]
    return float(max(np.abs(a - b).max(initial=0) for a, b in pairs))


SAME, OTHER = "same library", "independent"
PIXELS = "all samples"
BY_FORMAT = "gray and 4:4:4: all samples; else luma"
JPEG_IDCT = (
    "the standard leaves open the inverse DCT's rounding: 1 level in Y, Cb and Cr is 3 in RGB"
)
WAVELET = "the 9/7 wavelet is computed in floating point"
GRAY_WEBP = "our gray is green, into which chroma's rounding goes; libwebp's luma is exact"


OPENCV_DEPTH = "OpenCV has libavif cut 10 bits down to 8 before it converts colours"
DEPTH = "10 bits are rounded to 8 after or before the conversion of colours"
INTEGER_COLORS = "our colours are converted in integers"
OPENCV_GRAY = "not gray of limited range, which OpenCV takes for full range"


def with_params(**wanted: Any) -> Callable[[dict[str, Any], Image], bool]:
    """Applies to files of these parameters."""
    return lambda params, source: all(params[name] == value for name, value in wanted.items())


def not_limited_gray(params: dict[str, Any], source: Image) -> bool:
    """Applies to 8-bit AVIF in colour or of full range."""
    return params["bit_depth"] == 8 and (source.ndim == 3 or bool(params["full_range"]))


WITNESSES = (
    *(
        Witness(codec, decoder, OTHER, PIXELS, difference)
        for codec in ("uncompressed", "kmeans")
        for decoder, difference in (
            ("OpenCV (libpng)", pixels_by(opencv)),
            ("imagecodecs (libspng)", pixels_by(by_imagecodecs("png"))),
            ("FFmpeg", by_ffmpeg),
        )
    ),
    Witness("jpeg", "OpenCV (libjpeg-turbo)", SAME, PIXELS, pixels_by(opencv)),
    Witness("jpeg", "imagecodecs (libjpeg-turbo)", SAME, PIXELS,
            pixels_by(by_imagecodecs("jpeg8"))),
    Witness("jpeg", "libjpeg 9d", OTHER, BY_FORMAT, by_libjpeg_9d, 1, "rounding of colours"),
    Witness("jpeg", "FFmpeg", OTHER, BY_FORMAT, by_ffmpeg, 3, JPEG_IDCT),
    *(
        Witness("jpeg2000", f"{decoder}, {wavelet}", code, PIXELS, difference, allowed, reason,
                applies)
        for wavelet, applies, allowed, reason in (
            ("5/3", with_params(reversible=True), 0, ""),
            ("9/7", with_params(reversible=False), 1, WAVELET),
        )
        for decoder, code, difference in (
            ("OpenCV (OpenJPEG)", SAME, pixels_by(opencv)),
            ("imagecodecs (OpenJPEG)", SAME, pixels_by(by_imagecodecs("jpeg2k"))),
            ("glymur (OpenJPEG)", SAME, pixels_by(by_glymur)),
            ("FFmpeg", OTHER, by_ffmpeg),
        )
    ),
    Witness("bpg", "libde265", OTHER, "HEVC planes of gray and 4:4:4; else luma",
            hevc_planes_by_libde265),
    Witness("webp", "OpenCV (libwebp)", SAME, PIXELS, pixels_by(opencv)),
    Witness("webp", "imagecodecs (libwebp)", SAME, PIXELS, pixels_by(by_imagecodecs("webp"))),
    Witness("webp", "FFmpeg", OTHER, BY_FORMAT, by_ffmpeg, 1, GRAY_WEBP),
    Witness("avif", "OpenCV (libavif), 8 bit", SAME, PIXELS, pixels_by(opencv), 0, OPENCV_GRAY,
            not_limited_gray),
    Witness("avif", "OpenCV (libavif), 10 bit", SAME, PIXELS, pixels_by(opencv), 3, OPENCV_DEPTH,
            with_params(bit_depth=10)),
    Witness("avif", "imagecodecs (libavif), 8 bit", SAME, PIXELS,
            pixels_by(by_imagecodecs("avif")), applies=with_params(bit_depth=8)),
    Witness("avif", "imagecodecs (libavif), 10 bit", SAME, PIXELS,
            pixels_by(by_imagecodecs("avif")), applies=with_params(bit_depth=10)),
    Witness("avif", "FFmpeg (dav1d), 8 bit", OTHER, BY_FORMAT, by_ffmpeg, 1, INTEGER_COLORS,
            with_params(bit_depth=8)),
    Witness("avif", "FFmpeg (dav1d), 10 bit", OTHER, BY_FORMAT, by_ffmpeg, 1, DEPTH,
            with_params(bit_depth=10)),
    Witness("heic", "FFmpeg, 8 bit", OTHER, BY_FORMAT, by_ffmpeg, 0, "",
            with_params(bit_depth=8)),
    Witness("heic", "FFmpeg, 10 bit", OTHER, BY_FORMAT, by_ffmpeg, 1, DEPTH,
            with_params(bit_depth=10)),
)  # fmt: skip

ALONE = {
    "jpegxr": "no installed package but imagecodecs decodes JPEG XR",
    "jpegxl": "no installed package but imagecodecs decodes JPEG XL",
    "svd": "our own format",
}
"""Codecs without a second decoder."""


# --- comparing -------------------------------------------------------------------------------


def pictures(data: Path | None) -> list[Image]:
    """What is encoded: odd sizes, gray and colour, and the first two PNG in `data`."""
    generated = [generated_picture(151, 203, 3), generated_picture(101, 77, 1, seed=1)]
    paths = sorted(data.glob("*.png"))[:2] if data else []
    return generated + [read_image(path) for path in paths]


def compare(name: str, sources: list[Image]) -> list[Row]:
    """A row for each witness of a codec."""
    kind = CODECS[name]
    witnesses = [witness for witness in WITNESSES if witness.codec == name]
    if not witnesses:
        reason = ALONE.get(name, "")
        status = "no second decoder" if reason else "no decoder is named here"
        return [Row(name, "–", "", "", 0, 0, None, None, reason, status)]
    differences: dict[Witness, list[float]] = {witness: [] for witness in witnesses}
    faults: dict[Witness, str] = {}
    for setting in dict.fromkeys((kind(), *kind.variants())):
        for source in sources:
            data = setting.encode(source)
            image = kind.decode(data)
            for witness in witnesses:
                if not witness.applies(setting.params(), source):
                    continue
                try:
                    differences[witness].append(witness.difference(data, image))
                except Exception as error:  # each library has its own
                    faults[witness] = f"not read: {setting}: {error}"
        print(f"{name}: {setting}", file=sys.stderr)
    rows = []
    for witness, found in differences.items():
        largest = max(found, default=0.0)
        status = "ok" if largest <= witness.allowed else f"differs by {largest:g}"
        rows.append(
            Row(
                name,
                witness.decoder,
                witness.code,
                witness.compared,
                len(found),
                sum(one == 0 for one in found),
                largest,
                witness.allowed,
                witness.reason,
                faults.get(witness, status),
            )
        )
    return rows


def print_table(rows: list[Row]) -> None:
    """One line a codec and decoder."""
    print(
        f"{'codec':<13}{'decoder':<32}{'code':<14}{'same':>9}{'max diff':>10}{'allowed':>9}  status"
    )
    for row in rows:
        same = f"{row.same}/{row.files}" if row.files else "–"
        largest = "–" if row.max_difference is None else f"{row.max_difference:g}"
        allowed = "–" if row.allowed is None else f"{row.allowed:g}"
        print(
            f"{row.codec:<13}{row.decoder:<32}{row.code:<14}{same:>9}"
            f"{largest:>10}{allowed:>9}  {row.status}"
        )
        if row.reason:
            print(f"{'':<13}{row.reason}")


def main() -> int:
    """Run, print, write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of PNG pictures to encode, too")
    parser.add_argument("--only", choices=CODECS)
    parser.add_argument("--out", type=Path, default=Path("results/interoperability.csv"))
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(CODECS)
    sources = pictures(arguments.data)
    rows = [row for name in names for row in compare(name, sources)]
    print_table(rows)
    write_table(arguments.out, (asdict(row) for row in rows))
    write_environment(arguments.out)
    missed = [row for row in rows if row.status not in ("ok", "no second decoder")]
    for row in missed:
        print(f"missed: {row.codec} by {row.decoder}: {row.status}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
