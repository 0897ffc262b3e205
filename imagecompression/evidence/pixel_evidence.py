"""What decoded pixels show by themselves about an earlier compression: a classical second opinion.

Each sign is a measurement that a person can repeat. A codec is named only where one sign is
decisive; the limits below were chosen on the training photographs alone. BPG and HEIC are not told
apart; JPEG XL leaves a sign that some codec was at work. No classical sign is a usual case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from imagecompression.codec import Image, check_image
from imagecompression.evidence import (
    block_edges,
    chroma_band,
    common_comb,
    factor_comb,
    intra_comb,
    lapped_comb,
    low_rank,
    own_comb,
    wavelet_comb,
    wavelet_zeros,
)
from imagecompression.evidence.colour_count import colour_count
from imagecompression.evidence.comb import Comb
from imagecompression.evidence.common_comb import SOME_CODEC
from imagecompression.evidence.encoded_picture import EncodedPicture, encoded_picture
from imagecompression.evidence.enlargement import Enlargement
from imagecompression.evidence.finding import Finding
from imagecompression.evidence.hevc_intra import HEVC
from imagecompression.evidence.inset import Inset
from imagecompression.evidence.jpeg_grid import SURE, Quantisation, jpeg_grid
from imagecompression.evidence.jpeg_history import Plane, luma_of, windows_of
from imagecompression.evidence.low_rank import BlockRank
from imagecompression.thread_limit import one_thread

BLOCK_DROP = 5.0
"""Least ratio of two variances of the blocks' directions that follow each other, for SVD."""

BLOCK_LEAD = 1.8
"""Least ratio of that drop to the largest at another position of the grid."""

BLOCK_SURPLUS = {8: 3, 4: 2}
"""Least number of empty directions beyond the empty frequencies, by side of the blocks."""

BLOCK_FLOOR = 0.5
"""Greatest variance after the drop, in squared gray levels: rounding, not a weak texture."""

_SOME_PIXELS = 1 << 19
_LEAST_BEFORE = 64  # side of a picture from before that is worth looking at


@dataclass(frozen=True)
class Sign:
    """Findings of one kind.

    Attributes:
        findings: What was measured.
        codec: Name of the codec for which they are decisive, `HEVC` or `SOME_CODEC`; None if for
            none.
        reason: One sentence on it; empty if for none.
        missed: Name of the codec that nearly always leaves them, where they are not there; else
            None.
    """

    findings: tuple[Finding, ...]
    codec: str | None = None
    reason: str = ""
    missed: str | None = None


@dataclass(frozen=True)
class PixelEvidence:
    """Findings from pixels, and what they amount to.

    Attributes:
        findings: What was measured; order and names are the same for every picture.
        opinion: Name of the codec (``"jpeg"``, ``"jpeg2000"``, ``"jpegxr"``, ``"avif"``, ``"svd"``
            or ``"kmeans"``) for which a sign is decisive; `HEVC` for BPG or HEIC; `SOME_CODEC`
            where there are only signs that some codec left; None where there is no classical sign,
            or signs contradict.
        reason: One sentence on the opinion; empty where nothing was measured.
        signs: The findings by sign, see `SIGNS`; empty where nothing was measured.
    """

    findings: tuple[Finding, ...]
    opinion: str | None
    reason: str = ""
    signs: Mapping[str, Sign] = field(default_factory=dict)

    def finding(self, name: str) -> Finding | None:
        """The finding of a name, or None."""
        return next((finding for finding in self.findings if finding.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """A dict that `json.dumps` takes."""
        return {
            "findings": [finding.to_json() for finding in self.findings],
            "opinion": self.opinion,
            "reason": self.reason,
        }


def pixel_evidence(image: Image) -> PixelEvidence:
    """Measure all classical signs in a picture's pixels.

    Of large pictures, evenly spread windows are looked at.

    Args:
        image: `uint8` `(H, W)` or `(H, W, 3)`, colours as they were decoded: a conversion by an ICC
            profile, scaling or sharpening blurs all signs.

    Raises:
        CodecError: The image is outside the contract of `imagecompression.Image`.
    """
    return evidence_of(encoded_picture(check_image(image), _LEAST_BEFORE))


def evidence_of(encoded: EncodedPicture) -> PixelEvidence:
    """`pixel_evidence` of what `encoded_picture` made of a picture.

    Raises:
        CodecError: See `pixel_evidence`.
    """
    image = check_image(encoded.pixels)
    with one_thread():  # small matrices: more threads would only wait for each other
        signs = dict(zip(SIGNS, measure(image), strict=True))
    findings = [_inset(encoded.inset), _enlargement(encoded.enlargement)]
    findings += [one for sign in signs.values() for one in sign.findings]
    opinion, reason = _opinion(signs.values())
    return PixelEvidence(tuple(findings), opinion, f"{encoded.reason} {reason}".strip(), signs)


def measure(image: Image, names: Iterable[str] | None = None) -> Iterator[Sign]:
    """Measure some signs of `SIGNS`, in this order; all if None.

    Two are measured at a time; those that nobody asks for any more are not begun.
    """
    views = _Views(image)
    with ThreadPoolExecutor(2) as beside:
        yield from beside.map(lambda name: SIGNS[name](views), SIGNS if names is None else names)


def _opinion(signs: Iterable[Sign]) -> tuple[str | None, str]:
    """What the signs amount to, and why."""
    decisive = {sign.codec: sign.reason for sign in signs if sign.codec is not None}
    if "kmeans" in decisive:  # nothing but a palette can come last and leave so few colours
        decisive = {"kmeans": decisive["kmeans"]}
    if "jpeg" in decisive:  # its zeros lower ranks, and its steps are seen by other transforms too
        for other in ("svd", "jpegxr", HEVC, "avif"):
            decisive.pop(other, None)
    if len(decisive) > 1:
        decisive.pop(SOME_CODEC, None)
    if not decisive:
        return None, "No classical sign."
    if len(decisive) > 1:
        reason = f"Signs contradict, or several codecs were at work: {', '.join(decisive)}."
        return None, reason
    ((opinion, reason),) = decisive.items()
    return opinion, reason


class _Views:
    """A picture and windows of it; those of large pictures are spread evenly."""

    def __init__(self, image: Image) -> None:
        self.image = image

    @cached_property
    def windows(self) -> list[Image]:
        return list(windows_of(self.image, _SOME_PIXELS, multiple=16))

    @cached_property
    def lumas(self) -> list[Plane]:
        return [luma_of(window) for window in self.windows]

    @cached_property
    def fewer(self) -> list[Image]:
        return list(windows_of(self.image, common_comb.PIXELS, multiple=16))


def _inset(found: Inset | None) -> Finding:
    """Where in the picture the photograph is."""
    if found is None:
        return _none("inset", "Nothing blank or drawn frames a photograph; signs are of all of it.")
    value = {name: getattr(found, name) for name in ("left", "top", "width", "height")}
    note = (
        "The rectangle whose pixels differ from their neighbours nearly everywhere, in a picture "
        "that is blank or drawn elsewhere. All other signs are of this part."
    )
    return Finding("inset", value, "DERIVED", note)


def _enlargement(found: Enlargement | None) -> Finding:
    """From what size the picture was enlarged."""
    if found is None:
        note = "No smaller picture explains all but rounding errors; the signs are of this size."
        return _none("enlargement", note)
    value = {
        "width": found.width,
        "height": found.height,
        "factor": round(found.factor, 4),
        "kernel": found.kernel,
        "cropped": not found.is_whole,
        "residual": [round(one, 3) for one in found.residual],
        "beside": round(found.beside, 2) if math.isfinite(found.beside) else None,
        "peakedness": round(found.peakedness, 2),
    }
    note = (
        "What no enlargement from that size explains, in gray levels (down the columns, along the "
        "rows; rounding has 0.29), its ratio to that at a size beside, and its kurtosis. All other "
        "signs are of the picture before, by least squares."
    )
    return Finding("enlargement", value, "DERIVED", note)


def _jpeg(image: Image) -> Sign:
    """The grid vote, the comb, and what they tell of the file."""
    grid = jpeg_grid(image)
    history = grid.history
    vote = Finding(
        "jpeg_grid_vote",
        {
            "ratio": round(history.vote_ratio, 3),
            "share": round(history.vote_share, 4),
            "row": history.top,
            "column": history.left,
        },
        "DERIVED",
        "Votes for the 8×8 grid position whose DCT blocks have the most zeros, over those for the "
        "second; pictures without a history stay under 1.5. Other codecs with blocks of 8×8 (AVIF) "
        "reach high ratios too: the comb decides.",
    )
    comb = Finding(
        "jpeg_comb",
        {
            "decisive": grid.decisive,
            "comb": round(history.comb, 1),
            "gain": None if grid.luma is None else round(grid.luma.gain, 1),
            "fit": None if grid.luma is None else round(grid.luma.fit, 3),
        },
        "DERIVED",
        "Evidence in nats that DCT coefficients on that grid are multiples of steps: of each "
        "frequency by itself (comb), and of the best known table (gain); fit is the latter's share "
        "of what free steps would gain. AVIF, JPEG XR and WebP have combs too; only JPEG's are of "
        "JPEG's tables.",
    )
    findings = [vote, comb]
    for name, plane in (("luma", grid.luma), ("chroma", grid.chroma)):
        findings.append(_quantisation(f"jpeg_{name}", plane if grid.decisive else None))
    if grid.subsampling is None:
        findings.append(_none("jpeg_subsampling", "Chroma shows no steps."))
    else:
        note = "The chroma resolution at which the steps of Cb and Cr stand out."
        findings.append(Finding("jpeg_subsampling", grid.subsampling, "INFERRED", note))
    if not grid.decisive:
        return Sign(tuple(findings))
    quality = None if grid.luma is None else grid.luma.quality
    about = "" if quality is None else f", about quality {quality}"
    reason = (
        f"Was a JPEG{about}: its DCT coefficients are multiples of quantisation steps, on the grid "
        f"that starts at row {history.top}, column {history.left}."
    )
    return Sign(tuple(findings), "jpeg", reason)


def _quantisation(name: str, plane: Quantisation | None) -> Finding:
    """Quality and steps of one plane; steps that are not sure are None."""
    if plane is None:
        return _none(name, "No quantisation steps found.")
    steps = np.where(plane.lead >= SURE, plane.steps, 0)
    value = {
        "quality": plane.quality,
        "qualities": None if plane.qualities is None else list(plane.qualities),
        "table": plane.school,
        "steps": [[int(step) or None for step in row] for row in steps],
        "leads": [[round(float(lead), 1) for lead in row] for row in plane.lead],
    }
    note = (
        "Steps in natural order, DC first and not looked at; None where too few coefficients are "
        "left to be sure. Leads are the nats by which each step beats any other."
    )
    return Finding(name, value, "INFERRED", note)


def _wavelets(lumas: Sequence[Plane]) -> Sign:
    """Zeros in the bands of JPEG 2000's wavelets."""
    if _least_side(lumas) < wavelet_zeros.MIN_SIDE:
        return Sign((_too_small("wavelet_zeros", wavelet_zeros.MIN_SIDE),))
    found = {
        wavelet: wavelet_zeros.wavelet_zeros(lumas, wavelet) for wavelet in wavelet_zeros.WAVELETS
    }
    value = {
        wavelet: [
            {
                "level": number,
                "share": round(level.share, 4),
                "contrast": round(level.contrast, 4),
                "lead": round(level.lead, 4),
                "row": level.position[0],
                "column": level.position[1],
            }
            for number, level in enumerate(levels, 1)
        ]
        for wavelet, levels in found.items()
    }
    note = (
        "Share of zeros in the high bands where the transform begins at the best of four "
        "positions, its contrast to the mean of the other three, and its lead over the next best. "
        "At the first level both are under 0.03 without JPEG 2000, mostly."
    )
    findings = (Finding("wavelet_zeros", value, "DERIVED", note),)
    if _least_side(lumas) < wavelet_zeros.DECISIVE_SIDE:
        return Sign(findings)
    if not wavelet_zeros.decisive(found.values()):
        return Sign(findings, missed="jpeg2000")
    wavelet = max(found, key=lambda name: sum(level.contrast for level in found[name]))
    reason = (
        f"Was a JPEG 2000: the bands of the {wavelet} wavelet hold more zeros at one position than "
        "at its neighbours."
    )
    return Sign(findings, "jpeg2000", reason)


def _wavelet_comb(lumas: Sequence[Plane]) -> Sign:
    """The comb of JPEG 2000's wavelets."""
    if _least_side(lumas) < wavelet_comb.MIN_SIDE:
        return Sign((_too_small("wavelet_comb", wavelet_comb.MIN_SIDE),))
    comb = wavelet_comb.wavelet_comb(lumas)
    note = (
        "How evenly the sizes of the first level's coefficients are spaced by one step (in gray "
        "levels), in standard errors above the other three positions; the same at the second best; "
        "and what the other positions have at that step. Without JPEG 2000 under 5, or under half "
        "of what its own position has."
    )
    background = round(comb.background, 1)
    return _comb_sign("wavelet_comb", comb, "jpeg2000", note, background=background)


def _lapped(windows: Sequence[Image]) -> Sign:
    """The comb of JPEG XR's lapped transform."""
    if _least_side(windows) < lapped_comb.MIN_SIDE:
        return Sign((_too_small("lapped_comb", lapped_comb.MIN_SIDE),))
    comb = lapped_comb.lapped_comb(windows)
    note = (
        "How far the coefficients of JPEG XR's lapped transform keep to multiples of one step (in "
        "gray levels), in standard errors, at the best of 16 grid positions; the same at the "
        "second best, and of a plain DCT of 4×4. Under 5 without a codec."
    )
    return _comb_sign("lapped_comb", comb, "jpegxr", note, block_strength=comb.block_strength)


def _common(lumas: Sequence[Plane]) -> Sign:
    """The comb of codecs that quantise all frequencies with one step."""
    if _least_side(lumas) < common_comb.MIN_SIDE:
        return Sign((_too_small("common_comb", common_comb.MIN_SIDE),))
    comb = common_comb.common_comb(lumas)
    note = (
        "How far the high DCT coefficients of 8×8 blocks keep to multiples of one step (in gray "
        "levels), in standard errors, at the best of 64 grid positions; the same at the second "
        "best. Under 5 without a codec."
    )
    return _comb_sign("common_comb", comb, SOME_CODEC, note)


def _colours(image: Image, windows: Sequence[Image]) -> Sign:
    """Few colours."""
    count = colour_count(image, windows)
    value = {
        "colours": count.colours,
        "exact": count.exact,
        "median_of_tiles": count.tile,
        "evenness": round(count.evenness, 3),
        "crowded": round(count.crowded, 3),
    }
    note = (
        "Different colours, in tiles of 64×64 pixels too; where not exact, of the windows looked "
        "at and so at least that many. Drawings have few colours, but not evenly used ones; dark "
        "or smooth pictures have few, but crowded ones: with a neighbour one level away."
    )
    findings = (Finding("colours", value, "OBSERVED", note),)
    return Sign(findings, "kmeans", count.reason) if count.decisive else Sign(findings)


def _picture_rank(image: Image) -> Sign:
    """A steep drop in the singular values of the picture."""
    if min(image.shape[:2]) < low_rank.MIN_SIDE:
        return Sign((_too_small("picture_rank", low_rank.MIN_SIDE),))
    rank = low_rank.picture_rank(image)
    value = {
        "rank": rank.rank,
        "full": rank.full,
        "drop": round(rank.drop, 3),
        "before": rank.before,
        "half_rank": rank.half_rank,
    }
    note = (
        "Singular values of luma above rounding errors, of evenly spread rows and columns where "
        "the picture is large; the largest ratio of two that follow each other; and the rank of "
        "half of the rows, which is half of it where a picture was enlarged or blurred."
    )
    findings = (Finding("picture_rank", value, "DERIVED", note),)
    return Sign(findings, "svd", rank.reason) if rank.decisive else Sign(findings)


def _block_rank(lumas: Sequence[Plane]) -> Sign:
    """Directions of the blocks that are empty and no frequencies."""
    luma = lumas[len(lumas) // 2]
    if min(luma.shape) < low_rank.MIN_SIDE:
        return Sign((_too_small("block_rank", low_rank.MIN_SIDE),))
    ranks = [low_rank.block_rank(luma, block) for block in BLOCK_SURPLUS]
    value = [
        {
            "block": rank.block,
            "row": rank.position[0],
            "column": rank.position[1],
            "rank": rank.rank,
            "full": rank.full,
            "drop": round(rank.drop, 3),
            "other_drop": round(rank.other_drop, 3),
            "floor": round(rank.floor, 3),
            "empty_frequencies": rank.empty_frequencies,
        }
        for rank in ranks
    ]
    note = (
        "The blocks as rows of a matrix, in one window: directions before the steepest drop of "
        "their variances, at the grid position where it is steepest. Transforms of fixed "
        "frequencies, as JPEG's, empty as many frequencies as directions."
    )
    findings = (Finding("block_rank", value, "DERIVED", note),)
    decisive = [rank for rank in ranks if _empties_directions(rank)]
    if not decisive:
        return Sign(findings)
    rank = decisive[0]
    reason = (
        f"Was a truncated SVD of blocks of {rank.block}×{rank.block}: only {rank.rank} of "
        f"{rank.full} directions are used, and no frequencies explain it."
    )
    return Sign(findings, "svd", reason)


def _own(image: Image) -> Sign:
    """The comb of an SVD of blocks."""
    if min(image.shape[:2]) < own_comb.MIN_SIDE:
        return Sign((_too_small("own_comb", own_comb.MIN_SIDE),))
    comb = own_comb.own_comb(image)
    note = (
        "How far the coefficients of blocks, in the basis of these blocks' own singular vectors, "
        "keep to multiples of one step (in gray levels), in standard errors, at the best position "
        "of the grid; the same at the second best, and in the DCT of such blocks where it matters."
    )
    more = {} if comb.dct_strength is None else {"dct_strength": comb.dct_strength}
    return _comb_sign("own_comb", comb, "svd", note, block=comb.block, **more)


def _factors(image: Image) -> Sign:
    """The comb of an SVD of the whole picture."""
    if min(image.shape[:2]) < factor_comb.MIN_SIDE:
        return Sign((_too_small("factor_comb", factor_comb.MIN_SIDE),))
    if image.shape[0] * image.shape[1] > factor_comb.MAX_PIXELS:
        most = factor_comb.MAX_PIXELS >> 20
        return Sign((_none("factor_comb", f"The picture has over {most} megapixels."),))
    comb = factor_comb.factor_comb(image)
    value = {
        "strength": round(comb.strength, 1),
        "step": round(comb.step, 2),
        "other_strength": round(comb.other_strength, 1),
    }
    note = (
        "How far the entries of luma's strongest singular terms keep to multiples of one step (in "
        "gray levels), in standard errors; the same at a step that has nothing to do with it."
    )
    findings = (Finding("factor_comb", value, "DERIVED", note),)
    return Sign(findings, "svd", comb.reason) if comb.decisive else Sign(findings)


def _intra(windows: Sequence[Image]) -> Sign:
    """The combs of what the intra predictions of HEVC and AV1 leave."""
    if _least_side(windows) < intra_comb.MIN_SIDE:
        return Sign((_too_small("intra_comb", intra_comb.MIN_SIDE),))
    combs = intra_comb.intra_combs(windows)
    value = [
        {
            "opinion": comb.opinion,
            "nats": round(comb.nats, 1),
            "step": round(comb.step, 2),
            "quantiser": comb.quantiser,
            "row": comb.row,
            "column": comb.column,
            "other_nats": round(comb.other_nats, 1),
            "plain_nats": round(comb.plain_nats, 1),
            "depth": "8 bit" if comb.exact else "more than 8 bit",
            "steps": "varied" if comb.varied else "one",
        }
        for comb in combs
    ]
    note = (
        "Evidence in nats that what the intra prediction of HEVC, or of AV1, leaves of blocks of "
        "4×4 and 8×8 is multiples of a step (in gray levels), beyond what multiples without "
        "prediction explain, at the best position of the grid; and at ordinary positions."
    )
    findings = (Finding("intra_comb", value, "DERIVED", note),)
    for comb in combs:
        if comb.decisive:
            return Sign(findings, comb.opinion, comb.reason)
    return Sign(findings)


def _comb_sign(name: str, comb: Comb, codec: str, note: str, **more: float) -> Sign:
    """What a comb shows, and the codec for which it is decisive; `more` strengths beside it."""
    value = {
        "strength": round(comb.strength, 1),
        "step": round(comb.step, 2),
        "row": comb.row,
        "column": comb.column,
        "other_strength": round(comb.other_strength, 1),
        **{key: round(strength, 1) for key, strength in more.items()},
    }
    findings = (Finding(name, value, "DERIVED", note),)
    return Sign(findings, codec, comb.reason) if comb.decisive else Sign(findings)


def _empties_directions(rank: BlockRank) -> bool:
    surplus = rank.full - rank.rank - rank.empty_frequencies
    return (
        rank.drop >= BLOCK_DROP
        and rank.drop >= BLOCK_LEAD * rank.other_drop
        and rank.floor <= BLOCK_FLOOR
        and surplus >= BLOCK_SURPLUS[rank.block]
    )


def _chroma(windows: Sequence[Image]) -> Sign:
    """Whether chroma has fine detail."""
    if windows[0].ndim == 2:
        return Sign((_none("chroma_detail", "The picture is gray."),))
    if _least_side(windows) < chroma_band.MIN_SIDE:
        return Sign((_too_small("chroma_detail", chroma_band.MIN_SIDE),))
    luma, chroma = chroma_band.chroma_band(windows)
    value = {
        name: {"down": round(detail.down, 3), "across": round(detail.across, 3)}
        for name, detail in (("luma", luma), ("chroma", chroma))
    }
    note = (
        "Root mean square of the frequencies above half the band, in gray levels. Chroma that was "
        "halved has about 0.3 or less there, whatever halved it: a codec, or a camera."
    )
    return Sign((Finding("chroma_detail", value, "DERIVED", note),))


def _edges(lumas: Sequence[Plane]) -> Sign:
    """Blockiness by period."""
    if _least_side(lumas) < block_edges.MIN_SIDE:
        return Sign((_too_small("block_edges", block_edges.MIN_SIDE),))
    value = [
        {
            "period": edges.period,
            "down": round(edges.down, 3),
            "row": edges.row,
            "across": round(edges.across, 3),
            "column": edges.column,
        }
        for edges in (block_edges.block_edges(lumas, period) for period in block_edges.PERIODS)
    ]
    note = (
        "Third differences at the strongest of so many rows or columns, over their mean; 1 is no "
        "blockiness. Deblocking hides it."
    )
    return Sign((Finding("block_edges", value, "DERIVED", note),))


def _least_side(planes: Sequence[Plane] | Sequence[Image]) -> int:
    return min(min(plane.shape[:2]) for plane in planes)


def _none(name: str, why: str) -> Finding:
    return Finding(name, None, "NOT_AVAILABLE", why)


def _too_small(name: str, side: int) -> Finding:
    return _none(name, f"Needs at least {side} pixels a side.")


SIGNS: Mapping[str, Callable[[_Views], Sign]] = {
    "jpeg": lambda views: _jpeg(views.image),
    "wavelet_zeros": lambda views: _wavelets(views.lumas),
    "wavelet_comb": lambda views: _wavelet_comb(views.lumas),
    "lapped_comb": lambda views: _lapped(views.fewer),
    "intra_comb": lambda views: _intra(views.windows),
    "common_comb": lambda views: _common([luma_of(window) for window in views.fewer]),
    "colours": lambda views: _colours(views.image, views.windows),
    "picture_rank": lambda views: _picture_rank(views.image),
    "block_rank": lambda views: _block_rank(views.lumas),
    "own_comb": lambda views: _own(views.image),
    "factor_comb": lambda views: _factors(views.image),
    "chroma_detail": lambda views: _chroma(views.windows),
    "block_edges": lambda views: _edges(views.lumas),
}
"""How each sign is measured, by the name of its finding; "jpeg" has several."""
