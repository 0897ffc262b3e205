"""Signs in a whole picture's pixels that rule classes out, whatever its patches look like.

A patch of 64 pixels holds too few coefficients to show a mild quantiser; a picture holds enough.
Where a comb, zeros, a drop in rank or a palette are decisive (`imagecompression.evidence`), a
verdict that they contradict is taken back; and a codec that nearly always leaves a sign is less
likely where there is none. All are a person's to check, and none was learned from pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imagecompression import Image
from imagecompression.evidence.common_comb import SOME_CODEC
from imagecompression.evidence.pixel_evidence import PixelEvidence, Sign, measure
from imagecompression.thread_limit import one_thread
from train.families import family_of

HEEDED = (
    "colours",
    "lapped_comb",
    "wavelet_comb",
    "wavelet_zeros",
    "factor_comb",
    "picture_rank",
    "own_comb",
    "intra_comb",
    "common_comb",
)
"""The signs that a verdict heeds, see `imagecompression.evidence.pixel_evidence.SIGNS`; of several
decisive ones the first counts."""

RULED_OUT = 1e-6
"""What a class's probability is multiplied by. Chance alone hardly ever gives the seven standard
errors that a comb needs, and no sign was seen in 600 pictures without a codec; what is left is for
what nobody thought of."""

MISSED = 0.1
"""What the probability of a codec is multiplied by whose sign is missing: of 180 JPEG 2000 pictures
of `val` 18 have neither zeros nor comb, and of crops of 192×192 pixels 22."""


SHOWS_ANY = "jpeg"
"""Shows any of the combs now and then, so that none rules it out."""


@dataclass(frozen=True)
class DecisiveSign:
    """What the signs of a picture say.

    Attributes:
        opinion: "kmeans", "jpegxr", "jpeg2000", "svd", "avif", `hevc_intra.HEVC`,
            `common_comb.SOME_CODEC` for one that is not told, or None.
        reason: One sentence; empty without a sign.
        missed: Codec whose sign is missing, or None.
    """

    opinion: str | None = None
    reason: str = ""
    missed: str | None = None

    def factors(self, labels: Sequence[str]) -> npt.NDArray[np.float64]:
        """What to multiply the classes' probabilities by, `(C,)`: 1, `MISSED` or `RULED_OUT`.

        >>> DecisiveSign("lossy").factors(["uncompressed", "bpg"]).tolist()
        [1e-06, 1.0]
        """
        family = self._family(labels)
        if self.opinion is None:
            possible = set(labels)
        elif family:
            possible = family | {SHOWS_ANY}
        else:
            possible = set(labels) - {"uncompressed"}
        return np.array(
            [
                (1.0 if label in possible else RULED_OUT)
                * (MISSED if label == self.missed else 1.0)
                for label in labels
            ]
        )

    def is_foreign_to(self, labels: Sequence[str], answer: str) -> bool:
        """Whether it shows a codec of a family that no class belongs to.

        >>> DecisiveSign("avif").is_foreign_to(["uncompressed", "jpeg", "bpg"], "bpg")
        True

        Args:
            labels: The classes.
            answer: The most probable of them; a JPEG may show a foreign comb.
        """
        if self.opinion in (None, SOME_CODEC) or answer == SHOWS_ANY:
            return False
        return not self._family(labels)

    def _family(self, labels: Sequence[str]) -> set[str]:
        """The classes of the family of the codec that it shows."""
        return {label for label in labels if family_of(label) == family_of(self.opinion or "")}

    def applied(
        self, probabilities: npt.NDArray[np.float64], labels: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        """Probabilities `(C,)` after the sign, summing to 1."""
        weighted = probabilities * self.factors(labels)
        return np.asarray(weighted / weighted.sum())


def decisive_sign(image: Image) -> DecisiveSign:
    """The sign that a picture `uint8` `(H, W)` or `(H, W, 3)` bears, if any."""
    with one_thread():  # small matrices: more threads would only wait for each other
        return _first(measure(image, HEEDED))


def sign_in(evidence: PixelEvidence) -> DecisiveSign:
    """`decisive_sign` of a picture whose evidence has been taken."""
    return _first(evidence.signs[name] for name in HEEDED if name in evidence.signs)


def _first(signs: Iterable[Sign]) -> DecisiveSign:
    """The first that is decisive, and what was missed; those after it do not count."""
    missed = None
    for sign in signs:
        missed = missed or sign.missed
        if sign.codec is not None:
            return DecisiveSign(sign.codec, sign.reason, missed)
    if missed is None:
        return DecisiveSign()
    return DecisiveSign(
        None, f"The picture lacks the signs that {missed} nearly always leaves.", missed
    )
