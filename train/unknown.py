"""The unknown: telling pictures that no class explains.

A soft-max must name one of its classes, whatever it is shown. Two scores of strangeness decide: the
Mahalanobis `distance` of the embedding from the nearest class mean under one shared covariance (Lee
et al., NeurIPS 2018), that of a picture's mean embedding, less what chance adds to it, so that
pictures of few patches are no stranger; and the `entropy` of the pooled probabilities, because what
the network knows is named surely. One finds codecs that leave traces of their own, the other those
whose traces lie between the classes'. To compare with: `energy` of the logits (Liu et al., NeurIPS
2020) and `max_softmax` (Hendrycks and Gimpel, ICLR 2017), means over a picture's patches. Units and
threshold are set on validation pictures of known classes alone.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from imagecompression.atomic_file import write_bytes_atomic
from imagecompression.errors import ImageCompressionError
from train.outputs import Outputs
from train.verdict import pooled_probabilities

UNKNOWN_FILE = "unknown.npz"

METHODS = ("distance", "entropy", "energy", "max_softmax")
DECIDING = ("distance", "entropy")
"""The scores whose sum decides, each in units of its own spread. ``benchmarks/left_out.py``
compares them with the others."""

FALSE_REJECTION = 0.05
"""Share of validation pictures of known classes that the threshold gives up as unknown."""


class UnknownError(ImageCompressionError):
    """A rejection that cannot be fitted or read."""


@dataclass(frozen=True)
class EmbeddingDensity:
    """Class means and one shared covariance of embeddings.

    Attributes:
        means: `float64` `(C, F)`.
        whitening: `float64` `(F, F)`: `x @ whitening` has unit covariance within a class, up to
            shrinkage.
    """

    means: npt.NDArray[np.float64]
    whitening: npt.NDArray[np.float64]

    def distance(self, embedding: npt.ArrayLike) -> float:
        """Squared Mahalanobis distance of a picture from the nearest class mean.

        That of the mean over its patches, less that mean's variance, which is estimated from the
        patches, and of a single patch is the classes' own. It may be under 0.

        Args:
            embedding: Of the picture's patches, `(N, F)`, N at least 1.
        """
        points = np.asarray(embedding, np.float64) @ self.whitening
        squares = np.sum((points.mean(axis=0) - self.means @ self.whitening) ** 2, axis=1)
        count, features = points.shape
        chance = points.var(axis=0, ddof=1).sum() / count if count > 1 else features
        return float(squares.min() - chance)


def fit_density(embedding: npt.ArrayLike, classes: npt.ArrayLike) -> EmbeddingDensity:
    """Means and shared covariance, shrunk as Ledoit and Wolf (2004) do.

    Args:
        embedding: Of training patches, `(N, F)`.
        classes: Their class numbers `(N,)`.

    Raises:
        UnknownError: Not more patches than classes.
    """
    from sklearn.covariance import LedoitWolf

    points, numbers = np.asarray(embedding, np.float64), np.asarray(classes, np.int64)
    present = np.unique(numbers)
    if len(points) <= len(present):
        raise UnknownError(
            f"A density needs more patches than classes. Received: {len(points)} patches of "
            f"{len(present)} classes"
        )
    means = np.stack([points[numbers == number].mean(axis=0) for number in present])
    inside = points - means[np.searchsorted(present, numbers)]
    # Unit variances first, because shrinkage pulls all variances together.
    spread = np.maximum(inside.std(axis=0), 1e-6 * max(float(np.abs(points).max()), 1e-12))
    covariance = LedoitWolf(assume_centered=True).fit(inside / spread)
    factor = np.linalg.cholesky(covariance.precision_)
    return EmbeddingDensity(means, factor / spread[:, np.newaxis])


def strangeness(method: str, outputs: Outputs, density: EmbeddingDensity | None = None) -> float:
    """Score of a picture, higher where no class explains it.

    Args:
        method: One of `METHODS`.
        outputs: The network's answers on its patches, at least one.
        density: Needed for "distance" only.

    Raises:
        UnknownError: Another method, or no density for "distance".
    """
    if method == "energy":
        logits = np.asarray(outputs.logits, np.float64)
        highest = logits.max(axis=1)
        sums = np.exp(logits - highest[:, np.newaxis]).sum(axis=1)
        return -float(np.mean(highest + np.log(sums)))
    if method == "entropy":
        pooled = pooled_probabilities(outputs.probabilities)
        return -float(np.sum(pooled * np.log(np.maximum(pooled, 1e-300))))
    if method == "max_softmax":
        return 1 - float(np.asarray(outputs.probabilities, np.float64).max(axis=1).mean())
    if method == "distance" and density is not None:
        return density.distance(outputs.embedding)
    raise UnknownError(
        f"method must be one of {', '.join(METHODS)}, distance with a density. Received: {method!r}"
    )


@dataclass(frozen=True)
class Rejection:
    """When to say that no class explains an image.

    Attributes:
        units: For each of `DECIDING` its median over validation pictures, and how far above it nine
            tenths of them stay.
        threshold: Images with a higher score are unknown.
        density: Of the training patches' embeddings.
        model_sha256: Hash of the model's file that it belongs to.
    """

    units: dict[str, tuple[float, float]]
    threshold: float
    density: EmbeddingDensity
    model_sha256: str = ""

    def score(self, outputs: Outputs) -> float:
        """Score of an image from the answers on its patches, at least one."""
        return sum(
            (strangeness(method, outputs, self.density) - middle) / unit
            for method, (middle, unit) in self.units.items()
        )

    def reason(self, outputs: Outputs) -> str:
        """Why an image is unknown; empty if a class explains it."""
        score = self.score(outputs)
        if score <= self.threshold:
            return ""
        return (
            f"no class explains it: strangeness {score:.2f} is over {self.threshold:.2f}, "
            f"under which {1 - FALSE_REJECTION:.0%} of the validation pictures stay"
        )

    def save(self, folder: Path) -> None:
        """Write ``unknown.npz`` to a run directory."""
        facts = {
            "units": self.units,
            "threshold": self.threshold,
            "false_rejection": FALSE_REJECTION,
            "model_sha256": self.model_sha256,
        }
        file = io.BytesIO()
        np.savez(
            file,
            facts=np.array(json.dumps(facts)),
            means=self.density.means,
            whitening=self.density.whitening,
        )
        write_bytes_atomic(folder / UNKNOWN_FILE, file.getvalue())

    @classmethod
    def load(cls, folder: Path) -> Rejection | None:
        """The rejection of a run directory; None if there is none. Nothing is unpickled.

        Raises:
            UnknownError: The file is damaged, or by a version that scored otherwise.
        """
        path = folder / UNKNOWN_FILE
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as content:
                facts = json.loads(str(content["facts"]))
                means = np.asarray(content["means"], np.float64)
                whitening = np.asarray(content["whitening"], np.float64)
            units = {
                str(name): (float(middle), float(unit))
                for name, (middle, unit) in facts["units"].items()
            }
            threshold, model_sha256 = float(facts["threshold"]), str(facts["model_sha256"])
        except Exception as error:  # a damaged zip raises anything from OSError to zlib.error
            raise UnknownError(f"{path}: cannot be read: {error}") from error
        if set(units) != set(DECIDING):
            raise UnknownError(
                f"{path}: scores by {' and '.join(units) or 'nothing'}, and this version by "
                f"{' and '.join(DECIDING)}; calibrate anew (main.py calibrate)"
            )
        fits = means.ndim == 2 and whitening.shape == (means.shape[1],) * 2
        numbers = [threshold, *(number for pair in units.values() for number in pair)]
        finite = all(np.isfinite(array).all() for array in (means, whitening, numbers))
        if not fits or not finite or min(unit for _, unit in units.values()) <= 0:
            raise UnknownError(
                f"{path}: holds impossible values; calibrate anew (main.py calibrate)"
            )
        return cls(units, threshold, EmbeddingDensity(means, whitening), model_sha256)


def rejection_threshold(scores: npt.ArrayLike, false_rejection: float = FALSE_REJECTION) -> float:
    """The least of the scores `(N,)`, N at least 1, that at most such a share of them exceeds.

    >>> rejection_threshold([1.0, 2.0, 3.0, 4.0], 0.25)
    3.0
    """
    values = np.asarray(scores, np.float64)
    return float(np.quantile(values, 1 - false_rejection, method="inverted_cdf"))


def fit_rejection(
    density: EmbeddingDensity, images: Sequence[Outputs], *, model_sha256: str = ""
) -> Rejection:
    """The rejection whose threshold gives up `FALSE_REJECTION` of validation pictures.

    Args:
        density: Of the training patches.
        images: Answers on the patches of each validation picture, at least one.
        model_sha256: Told in the `Rejection`.

    Raises:
        UnknownError: No picture.
    """
    if not images:
        raise UnknownError("A rejection needs at least one validation picture. Received: 0")
    units = {}
    for method in DECIDING:
        scores = [strangeness(method, image, density) for image in images]
        middle, high = np.quantile(scores, [0.5, 0.9])
        # Equal scores have no spread; any unit will do then.
        units[method] = (float(middle), float(high - middle) or 1.0)
    unlimited = Rejection(units, math.inf, density, model_sha256)
    threshold = rejection_threshold([unlimited.score(image) for image in images])
    return dataclasses.replace(unlimited, threshold=threshold)


def leave_one_out_auroc(known: npt.ArrayLike, left_out: npt.ArrayLike) -> float:
    """How well scores tell a codec that was left out of training: area under the ROC curve.

    The probability that an image of the codec left out scores higher than one of a known class;
    ties count half. 0.5 is chance.

    >>> leave_one_out_auroc([0.1, 0.2, 0.3], [0.3, 0.9])
    0.9166666666666666
    """
    from scipy.stats import rankdata

    low, high = np.asarray(known, np.float64), np.asarray(left_out, np.float64)
    ranks = rankdata(np.concatenate([high, low]))[: len(high)]
    return float((ranks.sum() / len(high) - (len(high) + 1) / 2) / len(low))


def method_aurocs(
    density: EmbeddingDensity, known: Sequence[Outputs], left_out: Sequence[Outputs]
) -> dict[str, float]:
    """`leave_one_out_auroc` over images of each method, to choose by.

    Args:
        density: Of the training patches.
        known: Answers on each validation picture of the classes trained on.
        left_out: Answers on each validation picture of a codec that was not.
    """
    return {
        method: leave_one_out_auroc(
            [strangeness(method, image, density) for image in known],
            [strangeness(method, image, density) for image in left_out],
        )
        for method in METHODS
    }
