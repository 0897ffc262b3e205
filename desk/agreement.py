"""Whether the witnesses agree: the container, the network, the classical signs in the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from imagecompression.evidence.common_comb import SOME_CODEC
from imagecompression.evidence.hevc_intra import HEVC
from train.families import family_of
from train.verdict import Verdict

TITLES = {
    "uncompressed": "uncompressed",
    "jpeg": "JPEG",
    "jpeg2000": "JPEG 2000",
    "jpegxr": "JPEG XR",
    "bpg": "BPG",
    "heic": "HEIC",
    "avif": "AVIF",
    "webp": "WebP",
    "jpegxl": "JPEG XL",
    "svd": "SVD",
    "kmeans": "palette (k-means)",
    "png": "PNG",
    "tiff": "TIFF",
    HEVC: "HEVC intra (BPG or HEIC)",
    SOME_CODEC: "traces of some lossy codec",
}
"""Names of classes and formats as a reader knows them."""

FORMATS = {**TITLES, "uncompressed": "PNG", "kmeans": "palette PNG"}
"""Names of file formats; PNG is the format of the codecs `uncompressed` and `kmeans`."""

UNNAMED = (SOME_CODEC, HEVC)
"""What classical signs say where they name no codec."""

LOSSLESS = "uncompressed"

AgreementStatus = Literal["agree", "conflict", "one witness", "no witness"]


@dataclass(frozen=True)
class Agreement:
    """What the witnesses say together.

    Attributes:
        status: "agree" or "conflict" where two or three speak; codecs of one family agree.
        sentence: For a reader.
        container: The lossy codec that the container itself shows; "uncompressed" for a lossless
            file, which is silent about its pixels' past; None where it cannot tell.
        network: The class that the network by itself names; None where it names none, or says
            "mixed".
        classical: The codec whose classical signs the pixels bear, `HEVC` or `SOME_CODEC`; None for
            no sign, which many codecs leave none of.
    """

    status: AgreementStatus
    sentence: str
    container: str | None
    network: str | None
    classical: str | None


def agreement(
    file_format: str,
    container: str | None,
    verdict: Verdict | None,
    classical: str | None,
    details: Mapping[str, str] | None = None,
    *,
    mixed: bool = False,
) -> Agreement:
    """Compare the witnesses.

    Args:
        file_format: What the file is, such as "png".
        container: See `Agreement`.
        verdict: The network's; None where it was not asked.
        classical: See `Agreement`.
        details: What else is known of a codec's traces in the pixels, by its name, such as
            "quality about 80".
        mixed: Whether parts of the picture have different histories: then the network names no
            class for all of it.
    """
    network = None
    if verdict is not None and verdict.status == "named" and not mixed:
        network = verdict.network_label or verdict.label
    said = {
        "the container": None if container == LOSSLESS else container,
        "the network": network,
        "the classical signs": classical,
    }
    witnesses = {name: codec for name, codec in said.items() if codec is not None}
    pairs = list(combinations(witnesses.values(), 2))
    subject = _subject(file_format)
    status: AgreementStatus
    if any(_differ(one, other) for one, other in pairs):
        status = "conflict"
        told = "; ".join(
            f"{name} for {_told(codec, details if name != 'the container' else None)}"
            for name, codec in witnesses.items()
        )
        sentence = f"{subject} whose witnesses conflict: {told}"
        known = {
            *UNNAMED,
            *(verdict.probabilities if verdict is not None else witnesses.values()),
        }
        strange = sorted(set(witnesses.values()) - known)
        if strange and network is not None:
            names = " and ".join(TITLES.get(codec, codec) for codec in strange)
            sentence += f" (the network knows no {names})"
    elif pairs:
        status = "agree"
        by_name = [codec for codec in witnesses.values() if codec not in UNNAMED]
        one_family = f" (one family: {family_of(by_name[0])})"
        near = "" if len(set(by_name)) == 1 else one_family
        named = classical if classical in by_name else network or by_name[0]
        past = (
            f"whose pixels show {_told(named, details)}, as its container says"
            if "the container" in witnesses
            else f"whose pixels were {_told(named, details)}"
        )
        sentence = f"{subject} {past}: {_listed(list(witnesses))} agree{near}"
    elif witnesses:
        status = "one witness"
        ((name, codec),) = witnesses.items()
        verb = "show" if codec in (LOSSLESS, SOME_CODEC) else "were"
        past = f"whose pixels {verb} {_told(codec, details)}"
        silent = _silence(verdict, classical, mixed, skip=name)
        sentence = f"{subject} {past}: so says {name} alone; {silent}"
    else:
        status = "no witness"
        sentence = f"{subject} on whose past nothing speaks: {_silence(verdict, classical, mixed)}"
    return Agreement(status, sentence + ".", container, network, classical)


def _differ(one: str, other: str) -> bool:
    """Whether two witnesses cannot both be right, or near it."""
    if SOME_CODEC in (one, other):
        return LOSSLESS in (one, other)
    return family_of(one) != family_of(other)


def _subject(file_format: str) -> str:
    if file_format not in FORMATS:
        return "A file of unknown format"
    title = FORMATS[file_format]
    return f"{'An' if title in ('AVIF', 'SVD') else 'A'} {title}"


def _told(codec: str, details: Mapping[str, str] | None) -> str:
    if codec == LOSSLESS:
        return "no trace of a codec"
    title, detail = TITLES.get(codec, codec), (details or {}).get(codec, "")
    return f"{title}, {detail}" if detail else title


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _silence(verdict: Verdict | None, classical: str | None, mixed: bool, skip: str = "") -> str:
    """Why witnesses say nothing."""
    reasons = []
    if skip != "the network" and (verdict is None or verdict.status != "named" or mixed):
        said = "mixed" if mixed or verdict is None else verdict.answer
        answer = "was not asked" if verdict is None else f"says “{said}”"
        reasons.append(f"the network {answer}")
    if classical is None:
        reasons.append("no classical sign was found")
    return " and ".join(reasons)
