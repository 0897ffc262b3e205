"""The examination of one picture file: all that is known of it, and whether the witnesses agree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from desk.agreement import TITLES, Agreement, agreement
from desk.error_rates import error_rates_finding, read_error_rates
from desk.map_picture import map_picture
from desk.regions import Regions, find_regions
from desk.trace_map import TraceMap, trace_map
from imagecompression.errors import ImageCompressionError
from imagecompression.evidence.encoded_picture import EncodedPicture, encoded_picture
from imagecompression.evidence.finding import Finding
from imagecompression.evidence.pixel_evidence import PixelEvidence, evidence_of
from imagecompression.file_hash import file_sha256
from imagecompression.image_io import LoadedImage, decode_image, read_bytes
from train.classification import judge
from train.decisive_signs import sign_in
from train.families import FAMILIES, family_of
from train.verdict import Verdict

if TYPE_CHECKING:
    from imagecompression.codec import Image
    from imagecompression.evidence.container import ContainerEvidence
    from train.run import Run

NOT_ENOUGH_PIXELS = "not enough pixels"
MIXED = "mixed"

LIMITS = (
    "A verdict speaks of the last lossy codec that left traces in the pixels, not of who made the "
    "file, when, or with which program.",
    "The classes are a closed list. A codec that is not on it may be named as one that is.",
    "“uncompressed” means that no trace of the codecs on the list was found; scaling, blurring and "
    "other processing wipe traces out.",
    "The map shows single patches. A patch is wrong more often than the picture, and a place that "
    "differs from its surroundings is no proof of manipulation.",
    "“mixed” means that parts look like different codecs. That can be a montage, and it can be a "
    "mistake on content that differs from part to part. Parts by one codec, or by codecs of one "
    "family, are never told apart.",
    "What a container says can be written by anybody; what a network says can be wrong on pictures "
    "unlike those that it was trained on.",
)


@dataclass(frozen=True, eq=False)
class FileFacts:
    """The evidence file.

    Attributes:
        name: Last part of its path.
        byte_count: Its size.
        sha256: Of the bytes that were examined, hexadecimal.
        sha256_after: Of the file on disk after the examination; empty where it could not be read
            any more.
    """

    name: str
    byte_count: int
    sha256: str
    sha256_after: str

    @property
    def unchanged(self) -> bool:
        """Whether the file on disk still is what was examined."""
        return self.sha256 == self.sha256_after


@dataclass(frozen=True, eq=False)
class PictureFacts:
    """The decoded picture.

    Attributes:
        format: See `imagecompression.image_io.LoadedImage`, as for `bit_depth`, `inner_codec` and
            `notes`.
        width: In pixels.
        height: In pixels.
        channels: 1 or 3.
        bit_depth: Bits a sample in the file.
        inner_codec: For TIFF, the codec of its strips or tiles.
        notes: What the decoder converted.
        pixel_sha256: SHA-256 of shape and samples as in a dataset's manifest.
    """

    format: str
    width: int
    height: int
    channels: int
    bit_depth: int
    inner_codec: str | None
    notes: tuple[str, ...]
    pixel_sha256: str


@dataclass(frozen=True, eq=False)
class Examination:
    """All that is known of one picture file.

    Attributes:
        file: The evidence.
        picture: None where the pixels cannot be read.
        error: Why they cannot; empty if they can.
        container: What the file shows without its pixels.
        pixels: Classical signs; None without pixels.
        verdict: The network's; None without pixels, or with too few.
        not_enough: Why there is no verdict although there are pixels; empty if there is one.
        trace_map: Of the picture before it was enlarged, if it was, as the verdict; None where
            there is no verdict.
        regions: Whether parts have different histories; None where there is no map.
        map_picture: PNG of the map over the picture; empty where there is no map.
        agreement: Whether the witnesses agree.
        error_rates: How often such verdicts are right, as measured.
        confusions: What a named class is easily taken for, in sentences.
    """

    file: FileFacts
    picture: PictureFacts | None
    error: str
    container: ContainerEvidence
    pixels: PixelEvidence | None
    verdict: Verdict | None
    not_enough: str
    trace_map: TraceMap | None
    regions: Regions | None
    map_picture: bytes
    agreement: Agreement
    error_rates: Finding
    confusions: tuple[str, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether parts of the picture have different histories."""
        return self.regions is not None and self.regions.is_mixed

    @property
    def answer(self) -> str:
        """What to show to a reader: a class, "mixed", "unknown", or why there is none."""
        if self.is_mixed:
            return MIXED
        if self.verdict is not None:
            return self.verdict.answer
        return "unreadable" if self.picture is None else NOT_ENOUGH_PIXELS


def examine(path: Path, run: Run) -> Examination:
    """Examine a picture file, which is only read.

    Its bytes are read once; everything is told from them. Afterwards the file on disk is hashed
    again, to show that it was not changed meanwhile. Pixels that cannot be read leave the
    container's evidence, with the error.

    Args:
        path: The file, at most `imagecompression.image_io.MAX_FILE_BYTES` long.
        run: The run whose model is asked.

    Raises:
        ImageReadError: The bytes cannot be read: no regular file, empty, too large, no permission.
        ImageCompressionError: The run's model, calibration, rejection or error rates cannot be
            loaded.
    """
    return examine_bytes(read_bytes(path), path.name, run, lambda: _hash_on_disk(path))


def examine_bytes(
    data: bytes, name: str, run: Run, hash_after: Callable[[], str] | None = None
) -> Examination:
    """`examine` of a file's bytes that are in memory already.

    Args:
        data: The whole file.
        name: Its name, without folders.
        run: The run whose model is asked.
        hash_after: Hashes the file on disk anew; None where there is none and `data` is the file.

    Raises:
        ImageCompressionError: See `examine`.
    """
    rates = read_error_rates(run.path, run.model_sha256)
    sha256 = hashlib.sha256(data).hexdigest()
    container = _container_evidence(data)
    loaded, error = None, ""
    try:
        loaded = decode_image(data, name)
    except ImageCompressionError as problem:
        error = str(problem)
    byte_count = len(data)
    del data  # a gigabyte at most

    pixels, verdict, not_enough = None, None, ""
    judged, found, regions, drawn, ratio = None, None, None, b"", 0.0
    if loaded is not None:
        ratio = loaded.pixels.nbytes / byte_count
        encoded = encoded_picture(loaded.pixels, run.patch_size)
        judged = encoded.pixels
        height, width = judged.shape[:2]
        if min(height, width) < run.patch_size:
            pixels = _pixel_evidence(encoded)
            not_enough = (
                f"A verdict needs at least {run.patch_size}×{run.patch_size} pixels. "
                f"Received: {width}×{height}"
            )
        else:
            with ThreadPoolExecutor(2) as beside:
                evidence = beside.submit(_pixel_evidence, encoded)
                found = trace_map(judged, run)
                judging = beside.submit(judge, encoded, run, lambda: sign_in(evidence.result()))
                regions = find_regions(found)
                drawn = map_picture(judged, found, regions)
                verdict, pixels = judging.result(), evidence.result()
    opinion = pixels.opinion if pixels is not None else None
    mixed = regions is not None and regions.is_mixed
    named = None
    if verdict is not None and verdict.status == "named" and not mixed:
        named = verdict.label
    return Examination(
        file=FileFacts(name, byte_count, sha256, hash_after() if hash_after else sha256),
        picture=None if loaded is None else _picture_facts(loaded),
        error=error,
        container=container,
        pixels=pixels,
        verdict=verdict,
        not_enough=not_enough,
        trace_map=found,
        regions=regions,
        map_picture=drawn,
        agreement=agreement(
            loaded.format if loaded is not None else container.format.lower(),
            container.codec,
            verdict,
            opinion,
            _details(pixels),
            mixed=mixed,
        ),
        error_rates=error_rates_finding(
            rates, named, _measures(judged, ratio, named, container, pixels)
        ),
        confusions=known_confusions(named, run.labels),
    )


def known_confusions(label: str | None, labels: list[str]) -> tuple[str, ...]:
    """What a verdict is easily mistaken for: the other classes of its family, for a reader.

    Args:
        label: The class named; None if none was.
        labels: The run's classes.
    """
    if label is None:
        return ()
    near = [other for other in labels if other != label and family_of(other) == family_of(label)]
    found = [
        f"{TITLES.get(other, other)} is of the same family ({family_of(label)}): a mistake "
        "between the two is a near miss"
        for other in near
    ]
    absent = [
        other
        for other in FAMILIES
        if other not in labels and family_of(other) == family_of(label) and other != label
    ]
    return tuple(
        found
        + [
            f"{TITLES[other]}, of the same family, is no class of this run and is likely to be "
            f"called {TITLES.get(label, label)}"
            for other in absent
        ]
    )


def _container_evidence(data: bytes) -> ContainerEvidence:
    from imagecompression.evidence.container import ContainerEvidence, container_evidence

    try:
        return container_evidence(data)
    except ImageCompressionError as error:
        failed = Finding("container", None, "NOT_AVAILABLE", str(error))
        return ContainerEvidence(format="unknown", codec=None, findings=(failed,))


def _pixel_evidence(encoded: EncodedPicture) -> PixelEvidence:
    try:
        return evidence_of(encoded)
    except ImageCompressionError as error:
        failed = Finding("pixel evidence", None, "NOT_AVAILABLE", str(error))
        return PixelEvidence(opinion=None, findings=(failed,))


def _picture_facts(loaded: LoadedImage) -> PictureFacts:
    from datasets.sources import pixel_hash  # slow to import

    height, width = loaded.pixels.shape[:2]
    return PictureFacts(
        loaded.format, width, height, 1 if loaded.pixels.ndim == 2 else 3, loaded.bit_depth,
        loaded.inner_codec, loaded.notes, pixel_hash(loaded.pixels),
    )  # fmt: skip


def _hash_on_disk(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError:
        return ""


def _details(pixels: PixelEvidence | None) -> dict[str, str]:
    """What the classical signs say of a JPEG: "quality about 80, grid offset (3, 5)"."""
    if pixels is None or pixels.opinion != "jpeg":
        return {}
    parts = []
    quality = _pixel_quality(pixels)
    if quality is not None:
        parts.append(f"quality about {quality}")
    vote = pixels.finding("jpeg_grid_vote")
    if vote is not None and vote.value is not None:
        parts.append(f"grid offset ({vote.value['row']}, {vote.value['column']})")
    return {"jpeg": ", ".join(parts)} if parts else {}


def _container_quality(container: ContainerEvidence) -> int | None:
    """The quality of a JPEG file's tables; not that of its thumbnail."""
    finding = container.finding("jpeg_quality")
    return None if finding is None else finding.value


def _pixel_quality(pixels: PixelEvidence) -> int | None:
    """The quality that pixels tell of an earlier JPEG."""
    finding = pixels.finding("jpeg_luma")
    return None if finding is None or finding.value is None else finding.value["quality"]


def _measures(
    image: Image | None,
    file_ratio: float,
    label: str | None,
    container: ContainerEvidence,
    pixels: PixelEvidence | None,
) -> dict[str, float]:
    """What is known of `desk.error_rates.MEASURES`: size always, strength where something tells.

    Args:
        image: What was judged.
        file_ratio: Bytes of the whole picture's pixels for each byte of the file.
        label: The class named.
        container: The file's evidence.
        pixels: The pixels'.
    """
    if image is None:
        return {}
    measures = {"short_side": float(min(image.shape[:2]))}
    if label is not None and container.codec == label:  # else the file's size is another codec's
        measures["ratio"] = file_ratio
    if label == "jpeg":
        quality = _container_quality(container) if container.codec == "jpeg" else None
        if quality is None and pixels is not None and pixels.opinion == "jpeg":
            quality = _pixel_quality(pixels)
        if quality is not None:
            measures["quality"] = float(quality)
    return measures
