"""The baseline that a network must beat: boosted trees on hand-made features.

Not saved: it is fitted again where it is needed, and a file of scikit-learn's would be a pickle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier

from datasets.patches import PatchSet
from imagecompression.thread_limit import one_thread
from train.features import features
from train.settings import TrainError

_CHUNK = 1024


@dataclass(frozen=True)
class BaselineConfig:
    """How the baseline is fitted.

    Attributes:
        patches: Most training patches, spread evenly over the classes.
        iterations: Rounds of boosting, each with a tree for every class.
        leaves: Of a tree.
        learning_rate: Share of each tree's answer that is added.
        seed: Of the choice of patches.
    """

    patches: int = 20_000
    iterations: int = 100
    leaves: int = 31
    learning_rate: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline; `predict` is a `train.run.Predict`.

    Attributes:
        labels: Classes, in the order of the probabilities.
        patches: Number of patches it was fitted on.
        trees: The fitted classifier, which knows some or all of the classes by their number.
    """

    labels: tuple[str, ...]
    patches: int
    trees: HistGradientBoostingClassifier

    def predict(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """Class probabilities `float64` `(N, C)` of patches `uint8` `(N, P, P, 3)`."""
        answer = np.zeros((len(pixels), len(self.labels)))
        if len(pixels):
            with one_thread():
                answer[:, self.trees.classes_] = self.trees.predict_proba(features(pixels))
        return answer


def fit_baseline(
    patches: PatchSet,
    config: BaselineConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Baseline:
    """Fit the baseline on the training patches.

    Args:
        patches: The patches; those of other splits are not looked at.
        config: All settings; the defaults if left out.
        progress: Called with the patches whose features are known, and those in all.

    Raises:
        TrainError: Fewer than two classes in the train split.
    """
    config = BaselineConfig() if config is None else config
    number = {label: place for place, label in enumerate(patches.labels)}
    classes = np.array([number[label] for label in patches.table["label"].to_pylist()])
    training = np.array([split == "train" for split in patches.table["split"].to_pylist()], bool)
    present = np.unique(classes[training])
    if len(present) < 2:
        raise TrainError(
            "A classifier needs at least two classes in the train split. "
            f"Received: {[patches.labels[place] for place in present]}"
        )
    rng = np.random.default_rng(config.seed)
    rows = np.sort(
        np.concatenate(
            [
                rng.permutation(np.flatnonzero(training & (classes == place)))[
                    : max(1, config.patches // len(present))
                ]
                for place in present
            ]
        )
    )
    columns = []
    for start in range(0, len(rows), _CHUNK):
        columns.append(features(np.asarray(patches.pixels[rows[start : start + _CHUNK]])))
        if progress is not None:
            progress(min(start + _CHUNK, len(rows)), len(rows))
    trees = HistGradientBoostingClassifier(
        max_iter=config.iterations,
        max_leaf_nodes=config.leaves,
        learning_rate=config.learning_rate,
        class_weight="balanced",
        early_stopping=False,  # its held-out patches would be of the same pictures
        random_state=config.seed,
    )
    with one_thread():
        trees.fit(np.concatenate(columns), classes[rows])
    return Baseline(tuple(patches.labels), len(rows), trees)
