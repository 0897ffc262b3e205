"""The bias audit: whether a dataset's labels can be told without looking at the pictures.

A network trained on a dataset takes any shortcut that is there: if one codec's files always came
out a little smaller, or its pictures a little wider, it would learn that. The audit plays the
network's part with facts about the files alone. On the facts that a target is meant to match, a
classifier must stay near chance; what cannot match by nature is measured too, and said apart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datasets.audit_report import (
    MARGIN,
    Audit,
    Check,
    Guess,
    Information,
    Stratum,
    Trait,
)
from imagecompression import CODECS
from imagecompression.errors import ImageCompressionError

SURE = 2.0
"""A guess fails where it is over `MARGIN` by this many standard errors. Between the two nothing is
decided: more sources would tell."""

MIN_GROUPS = 30
"""With fewer groups of sources, nothing but a clear leak can be judged."""

MIN_COMPLETE = 0.5
"""Share of the sources for which all compared codecs must have met a target; the codec that missed
it most often is left out of the comparison until this holds."""

MAX_MISSED = 0.05
"""The same for targets drawn at random, which have no counterpart in other classes: a codec that
missed more of them is left out."""

MAX_LACKING = 0.02
"""A class may lack this share of the samples that the others have of the same sources."""

SHARE_TOLERANCE = 0.02
"""A class's share may differ by this much between one split and the whole."""

PICTURE_FACTS = (
    "width", "height", "width mod 16", "height mod 16", "channels",
    "mean_red", "mean_green", "mean_blue",
)  # fmt: skip
SIZE_FACTS = ("file_bytes", "bits_per_pixel", "ratio")
FIDELITY_FACTS = ("psnr_db", "ssim", "ms_ssim")
MATCHED_FACTS = {"ratio": SIZE_FACTS, "ssim": ("ssim",)}
"""What a kind of target makes equal across codecs."""
UNMATCHED_FACTS = {"ratio": FIDELITY_FACTS, "ssim": (*SIZE_FACTS, "psnr_db", "ms_ssim")}
"""What it leaves different by nature: codecs differ in fidelity at equal size."""

# Beyond this a classification takes a sample of the rows: 60,000 rows say nothing that 4,000 hide.
_MAX_ROWS = 4000
_FOLDS = 5
_TREES = 50
_BOOTSTRAPS = 200
_PERMUTATIONS = 30
_BINS = 16

_NEEDED = (
    "sample_id", "status", "source_id", "source_pixel_sha256", "group", "split", "label", "codec",
    "params", "encoder", "target_kind", "target_nominal", "reached", "history", "container",
    "file_bytes", "pixel_sha256", "width", "height", "channels", "ratio", "bits_per_pixel",
    "psnr_db", "ssim", "ms_ssim",
)  # fmt: skip

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class AuditError(ImageCompressionError):
    """The manifest cannot be audited."""


def audit_manifest(table: pa.Table, seed: int = 0) -> Audit:
    """Audit the dataset that a manifest describes.

    Args:
        table: See `datasets.manifest.read_manifest`. The columns ``mean_red``, ``mean_green`` and
            ``mean_blue`` (of the stored picture) may be missing.
        seed: Fixes folds, forests and permutations. Equal manifests give equal audits.

    Raises:
        AuditError: No sample is well, or columns are missing.
    """
    missing = [name for name in _NEEDED if name not in table.column_names]
    if missing:
        raise AuditError(
            f"The manifest lacks the columns {', '.join(missing)}. Build the dataset again."
        )
    failed = sum(status != "ok" for status in table["status"].to_pylist())
    samples = _Samples.of(table)
    if not len(samples):
        raise AuditError(f"The manifest holds no sample that is well, and {failed} that failed.")
    rng = np.random.default_rng(seed)
    strata = _target_strata(samples, rng)
    everything = _picture_stratum(samples, rng)
    checks = [
        *(
            _guess_check(item)
            for item in (*strata, everything)
            # Every target has its own check; together they need not have a class in common.
            if item.matched is not None or not item.name.startswith("every ")
        ),
        _balance_check(samples, failed),
        _size_check(samples),
        *_split_checks(samples),
        _twin_check(samples),
    ]
    return Audit(
        samples=len(samples),
        groups=samples.count_groups(),
        checks=checks,
        limits=_limits(samples, strata),
        strata=[*strata, everything],
        information=_information(samples, rng),
        traits=_traits(samples),
    )


@dataclass(frozen=True)
class _Samples:
    """Columns of the samples that are well, as arrays of one length; facts on smooth axes."""

    columns: dict[str, npt.NDArray[Any]]
    facts: dict[str, Floats]

    @classmethod
    def of(cls, table: pa.Table) -> _Samples:
        table = table.filter(pc.equal(table["status"], "ok"))
        texts = (
            "sample_id", "source_id", "source_pixel_sha256", "group", "split", "label", "codec",
            "params", "encoder", "target_kind", "history", "container", "pixel_sha256",
        )  # fmt: skip
        columns = {name: np.array(table[name].to_pylist(), dtype=object) for name in texts}
        columns["reached"] = np.array(table["reached"].to_pylist(), dtype=bool)
        columns["nominal"] = _numbers(table, "target_nominal")
        lossy = np.array([CODECS[name].knob is not None for name in columns["codec"]], bool)
        own = columns["codec"] == columns["label"]
        # Mild enough, a lossy codec can return the source as it was.
        columns["unchanged"] = lossy & own & np.isposinf(_numbers(table, "psnr_db"))
        columns["class"], columns["source"] = (
            np.unique(columns[name].astype(str), return_inverse=True)[1]
            for name in ("label", "source_id")
        )
        facts = {name: np.log(_numbers(table, name)) for name in (*SIZE_FACTS, "width", "height")}
        # The bytes of a file that was made after the labelled encode are not that codec's.
        if not np.array_equal(columns["container"], columns["codec"]):
            del facts["file_bytes"]
        for name in ("width", "height"):
            facts[f"{name} mod 16"] = _numbers(table, name) % 16
        for name in ("channels", "mean_red", "mean_green", "mean_blue", "psnr_db"):
            if name in table.column_names:
                facts[name] = _numbers(table, name)
        for name in ("ssim", "ms_ssim"):
            facts[name] = -np.log(np.maximum(1 - _numbers(table, name), 1e-9))
        # Infinite for equal pictures, absent for MS-SSIM of small ones: a value of its own each.
        facts = {name: np.nan_to_num(v, nan=-1.0, posinf=200.0) for name, v in facts.items()}
        return cls(columns, facts)

    def __len__(self) -> int:
        return len(self.columns["label"])

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.columns[name]

    def at(self, rows: npt.NDArray[Any]) -> _Samples:
        """The samples at a mask or at indices."""
        return _Samples(
            {name: column[rows] for name, column in self.columns.items()},
            {name: column[rows] for name, column in self.facts.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[_Samples]) -> _Samples:
        """The samples of all parts, at least one."""
        first = parts[0]
        return cls(
            {name: np.concatenate([part[name] for part in parts]) for name in first.columns},
            {name: np.concatenate([part.facts[name] for part in parts]) for name in first.facts},
        )

    def count_groups(self) -> int:
        return len(set(self["group"]))

    def present(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in self.facts)

    def targets(self) -> list[tuple[str, float, npt.NDArray[np.bool_]]]:
        """Each (kind, nominal value) with the mask of its samples; NaN for random draws."""
        found = []
        for kind in MATCHED_FACTS:
            of_kind = self["target_kind"] == kind
            for nominal in np.unique(self["nominal"][of_kind]):
                same = (
                    np.isnan(self["nominal"]) if np.isnan(nominal) else self["nominal"] == nominal
                )
                found.append((kind, float(nominal), of_kind & same))
        return found


def _target_strata(samples: _Samples, rng: np.random.Generator) -> list[Stratum]:
    """A stratum for each target, and one for each kind with all its targets."""
    strata = []
    for kind in MATCHED_FACTS:
        of_kind = [(value, samples.at(rows)) for of, value, rows in samples.targets() if of == kind]
        compared = [_comparable(part, value) for value, part in of_kind]
        for (value, part), (rows, left_out) in zip(of_kind, compared, strict=True):
            name = f"{kind} at random" if np.isnan(value) else f"{kind} {value:g}"
            strata.append(_stratum(name, kind, part, part.at(rows), left_out, rng))
        if len(of_kind) > 1:
            # A codec left out at one target would be told by the absence of that target's sizes.
            never = sorted({codec for _, left_out in compared for codec in left_out})
            whole = samples.at(samples["target_kind"] == kind)
            inside = _Samples.joined(
                [
                    part.at(rows & ~np.isin(part["codec"].astype(str), never))
                    for (_, part), (rows, _) in zip(of_kind, compared, strict=True)
                ]
            )
            strata.append(_stratum(f"every {kind}", kind, whole, inside, tuple(never), rng))
    return strata


def _comparable(samples: _Samples, nominal: float) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Mask of the samples of one target that can be compared, and the codecs left out.

    A source is compared where every codec met the target: else its content would tell the class.
    """
    missed = _missed(samples)
    if np.isnan(nominal):
        out = [codec for codec, share in missed.items() if share > MAX_MISSED]
        return samples["reached"] & ~np.isin(samples["codec"].astype(str), out), tuple(out)
    blocks = np.char.add(samples["source"].astype(str), samples["history"].astype(str))
    block = np.unique(blocks, return_inverse=True)[1]
    names = sorted(set(samples["codec"]))
    codec = np.array([names.index(name) for name in samples["codec"]])
    met = np.zeros((block.max() + 1, len(names)), dtype=bool)
    met[block, codec] = True
    met[block[~samples["reached"]], codec[~samples["reached"]]] = False
    kept = sorted(range(len(names)), key=lambda i: missed.get(names[i], 0.0))
    while len(kept) > 1 and met[:, kept].all(axis=1).mean() < MIN_COMPLETE:
        kept.pop()
    complete = np.all(met[:, kept], axis=1)
    left_out = tuple(name for i, name in enumerate(names) if i not in kept)
    return complete[block] & np.isin(codec, kept), left_out


def _missed(samples: _Samples) -> dict[str, float]:
    """Codecs that missed targets, each with the share of its samples."""
    shares = {
        str(codec): float(np.mean(~samples["reached"][samples["codec"] == codec]))
        for codec in sorted(set(samples["codec"]))
    }
    return {codec: share for codec, share in shares.items() if share > 0}


def _stratum(
    name: str,
    kind: str,
    delivered: _Samples,
    compared: _Samples,
    left_out: tuple[str, ...],
    rng: np.random.Generator,
) -> Stratum:
    facts = compared.present((*MATCHED_FACTS.get(kind, ()), *PICTURE_FACTS))
    others = compared.present(UNMATCHED_FACTS.get(kind, ()))
    telling = {}
    for fact in facts:
        bits, baseline = _bits(compared, fact, rng)
        telling[fact] = max(0.0, bits - baseline)
    missed = _missed(delivered)
    return Stratum(
        name=name,
        samples=len(compared),
        groups=compared.count_groups(),
        classes=tuple(sorted(set(compared["label"]))),
        missed=missed,
        left_out=left_out,
        matched=_guess(compared, facts, rng),
        unmatched=_guess(compared, others, rng),
        delivered=_guess(delivered, facts, rng) if missed else None,
        telling=dict(sorted(telling.items(), key=lambda item: -item[1])),
    )


def _picture_stratum(samples: _Samples, rng: np.random.Generator) -> Stratum:
    """Geometry and colour over all classes, also those without a target; each source once."""
    shuffled = samples.at(rng.permutation(len(samples)))
    pairs = shuffled["source"] * (shuffled["class"].max() + 1) + shuffled["class"]
    once = shuffled.at(np.unique(pairs, return_index=True)[1])
    once.columns["reached"] = np.ones(len(once), dtype=bool)  # no target is looked at here
    return _stratum("geometry and colour", "", once, once, (), rng)


def _guess(samples: _Samples, facts: tuple[str, ...], rng: np.random.Generator) -> Guess | None:
    """How well these facts give the label away; None where there is nothing to compare."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names, labels = np.unique(samples["label"].astype(str), return_inverse=True)
    groups = np.unique(samples["group"].astype(str), return_inverse=True)[1]
    seed = int(rng.integers(2**31))
    count = groups.max() + 1 if len(samples) else 0
    if len(names) < 2 or count < 2 or not facts:
        return None
    matrix = np.stack([samples.facts[fact] for fact in facts], axis=1)
    if len(samples) > _MAX_ROWS:
        rows = rng.permutation(len(samples))[:_MAX_ROWS]
        matrix, labels, groups = matrix[rows], labels[rows], groups[rows]
    fold = (rng.permutation(count) % min(_FOLDS, count))[groups]
    models = (
        ExtraTreesClassifier(
            _TREES,
            min_samples_leaf=5,
            max_features=None,
            class_weight="balanced",
            random_state=seed,
        ),
        make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-3)
        ),
    )
    best: Guess | None = None
    for model in models:
        hits = np.zeros(len(labels), dtype=bool)
        for number in np.unique(fold):
            held_out = fold == number
            model.fit(matrix[~held_out], labels[~held_out])
            hits[held_out] = model.predict(matrix[held_out]) == labels[held_out]
        recalls, error = _recalls(hits, labels, groups, rng)
        accuracy = float(np.mean(recalls))
        if best is None or accuracy > best.accuracy:
            by_name = {str(n): float(r) for n, r in zip(names, recalls, strict=True)}
            best = Guess(facts, accuracy, 1 / len(names), error, by_name)
    return best


def _recalls(
    hits: npt.NDArray[np.bool_], labels: Ints, groups: Ints, rng: np.random.Generator
) -> tuple[Floats, float]:
    """Recall of each class, and the standard error of their mean by bootstrap over groups."""
    shape = (groups.max() + 1, labels.max() + 1)
    cell = groups * shape[1] + labels
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    right = np.bincount(cell, weights=hits, minlength=shape[0] * shape[1]).reshape(shape)
    draws = rng.multinomial(shape[0], np.full(shape[0], 1 / shape[0]), _BOOTSTRAPS)
    means = np.mean((draws @ right) / np.maximum(draws @ counts, 1), axis=1)
    return right.sum(axis=0) / np.maximum(counts.sum(axis=0), 1), float(np.std(means))


def _bits(samples: _Samples, fact: str, rng: np.random.Generator) -> tuple[float, float]:
    """Mutual information of label and fact in bits; the same for permuted labels, on average.

    Labels are permuted within each source, because facts of the same source hang together.
    """
    if not len(samples):
        return 0.0, 0.0
    values = samples.facts[fact]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")
    labels, source = samples["class"], samples["source"]
    by_source = np.argsort(source, kind="stable")
    permuted = np.empty_like(labels)
    chance = []
    for _ in range(_PERMUTATIONS):
        permuted[by_source] = labels[np.lexsort((rng.random(len(labels)), source))]
        chance.append(_mutual_information(permuted, bins))
    return _mutual_information(labels, bins), float(np.mean(chance))


def _mutual_information(first: Ints, second: Ints) -> float:
    """Of two discrete variables, in bits, by counting."""
    columns = int(second.max()) + 1
    counts = np.bincount(first * columns + second, minlength=(int(first.max()) + 1) * columns)
    joint = counts.reshape(-1, columns) / len(first)
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log2(joint[seen] / expected[seen])))


def _information(samples: _Samples, rng: np.random.Generator) -> list[Information]:
    """For each kind and fact the information at a given target, averaged over targets."""
    found = []
    for kind, matched in MATCHED_FACTS.items():
        strata = [samples.at(rows) for of, _, rows in samples.targets() if of == kind]
        if not strata:
            continue
        total = sum(map(len, strata))
        for fact in samples.present((*matched, *PICTURE_FACTS, *UNMATCHED_FACTS[kind])):
            figures = np.array([_bits(part, fact, rng) for part in strata])
            bits, baseline = np.array([len(part) for part in strata]) @ figures / total
            equal = fact not in UNMATCHED_FACTS[kind]
            found.append(Information(kind, fact, equal, float(bits), float(baseline)))
        part = samples.at(samples["target_kind"] == kind)
        shared = _mutual_information(part["class"], part["source"])
        permuted = (rng.permutation(part["class"]) for _ in range(_PERMUTATIONS))
        chance = [_mutual_information(labels, part["source"]) for labels in permuted]
        found.append(Information(kind, "source", True, shared, float(np.mean(chance))))
    return found


def _guess_check(stratum: Stratum) -> Check:
    name, guess = f"facts-only classifier, {stratum.name}", stratum.matched
    if guess is None:
        reason = "fewer than two classes or groups can be compared"
        return Check(name, "undecided", f"{reason}{_left_out(stratum)}")
    text = (
        f"{guess.accuracy:.1%} ± {guess.standard_error:.1%}, chance {guess.chance:.1%} "
        f"({len(stratum.classes)} classes, {stratum.groups} groups){_left_out(stratum)}"
    )
    if guess.excess > MARGIN + SURE * guess.standard_error:
        facts = [f"{fact} {bits:.2f} bit" for fact, bits in list(stratum.telling.items())[:3]]
        classes = sorted(guess.recalls.items(), key=lambda item: -item[1])[:3]
        text += f"; told by {', '.join(facts)}; "
        text += f"best known: {', '.join(f'{label} {recall:.0%}' for label, recall in classes)}"
        return Check(name, "fail", text)
    if stratum.groups < MIN_GROUPS:
        return Check(name, "undecided", f"{text}; under {MIN_GROUPS} groups are too few to judge")
    if max(guess.excess, guess.standard_error) > MARGIN:
        return Check(name, "undecided", f"{text}; too few samples to be sure")
    return Check(name, "pass", text)


def _left_out(stratum: Stratum) -> str:
    return f"; not compared: {', '.join(stratum.left_out)}" if stratum.left_out else ""


def _balance_check(samples: _Samples, failed: int) -> Check:
    """Every codec has as many samples of each source, target and history as the others."""
    cells: dict[tuple[Any, ...], Counter[str]] = {}
    for source, kind, nominal, history, codec in zip(
        samples["source"],
        samples["target_kind"],
        np.nan_to_num(samples["nominal"], nan=-1.0),
        samples["history"],
        samples["codec"],
        strict=True,
    ):
        cells.setdefault((source, kind, nominal, history), Counter())[codec] += 1
    lacking: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for kind in set(samples["target_kind"]):
        of_kind = [(key, counts) for key, counts in cells.items() if key[1] == kind]
        codecs = {codec for _, counts in of_kind for codec in counts}
        if kind == "none":  # a class of its own: compared with the sources that the others have
            pairs = {(source, history) for source, _, _, history in cells}
            of_kind = [((s, kind, -1.0, h), cells.get((s, kind, -1.0, h), Counter()))
                       for s, h in pairs]  # fmt: skip
        for _, counts in of_kind:
            most = max(counts.values(), default=1)
            for codec in codecs:
                expected[codec] += most
                lacking[codec] += most - counts[codec]
    shares = {codec: lacking[codec] / expected[codec] for codec in expected}
    short = {codec: share for codec, share in sorted(shares.items()) if share > MAX_LACKING}
    guess = _guess_by_source(samples)
    text = f"guessed from the source alone {guess:.1%}, chance {1 / len(set(samples['label'])):.1%}"
    if failed:
        text += f"; {failed} samples failed"
    if short:
        missing = ", ".join(f"{codec} {share:.0%}" for codec, share in short.items())
        text += f"; lack samples that others have of the same sources: {missing}"
    return Check("classes balanced in each source", "fail" if short else "pass", text)


def _guess_by_source(samples: _Samples) -> float:
    """Balanced accuracy of answering each source's most frequent class."""
    classes = samples["class"].max() + 1
    cell = samples["source"] * classes + samples["class"]
    counts = np.bincount(cell, minlength=(samples["source"].max() + 1) * classes)
    shares = counts.reshape(-1, classes) / np.bincount(samples["class"], minlength=classes)
    return float(shares.max(axis=1).sum() / classes)


def _size_check(samples: _Samples) -> Check:
    """Width, height and channels do not differ across classes."""
    odd: list[str] = []
    shape = np.stack(
        [samples.facts[name] for name in ("width", "height", "channels")], axis=1
    ).round(9)
    names = np.array(sorted(set(samples["label"])))
    plain = samples["history"] == "single"
    usual: dict[int, Counter[tuple[float, ...]]] = {}
    for source, size in zip(samples["source"][plain], map(tuple, shape[plain]), strict=True):
        usual.setdefault(source, Counter())[size] += 1
    differs: Counter[str] = Counter()
    for source, size, label in zip(
        samples["source"][plain], map(tuple, shape[plain]), samples["label"][plain], strict=True
    ):
        differs[label] += size != usual[source].most_common(1)[0][0]
    odd += [
        f"{label}: {differs[label]} samples of another size or with other channels than the "
        "source's other classes"
        for label in sorted(differs)
        if differs[label]
    ]
    # Where a history draws sizes at random only their distributions can be compared.
    for column, fact in enumerate(("width", "height", "channels")):
        for label in names:
            inside = (samples["label"] == label) & ~plain
            others = (samples["label"] != label) & ~plain
            if inside.any() and others.any():
                distance = _distance(shape[inside, column], shape[others, column])
                sources = len(set(samples["source"][inside]))
                if distance > 0.1 and distance > 1.95 / np.sqrt(sources):
                    odd.append(f"{label}: {fact} is distributed otherwise ({distance:.2f} apart)")
    text = "; ".join(odd) or "width, height and channels are the same in all classes"
    return Check("picture sizes", "fail" if odd else "pass", text)


def _distance(first: Floats, second: Floats) -> float:
    """The Kolmogorov–Smirnov distance of two samples."""
    places = np.union1d(first, second)
    first, second = np.sort(first), np.sort(second)
    below = (np.searchsorted(values, places, "right") / len(values) for values in (first, second))
    return float(np.max(np.abs(np.subtract(*below))))


def _split_checks(samples: _Samples) -> list[Check]:
    labels = sorted(set(samples["label"]))
    splits = sorted(set(samples["split"]))
    counts = Counter(zip(samples["split"], samples["label"], strict=True))
    sizes, totals = Counter(samples["split"]), Counter(samples["label"])
    absent = [
        f"{split} lacks {label}" for split in splits for label in labels if not counts[split, label]
    ]
    # Where the label rule names classes by chance, shares scatter; by design they are equal.
    scatter = 0.0 if np.array_equal(samples["label"], samples["codec"]) else 3.0
    uneven = []
    for split in splits:
        for label in labels:
            whole, share = totals[label] / len(samples), counts[split, label] / sizes[split]
            slack = SHARE_TOLERANCE + scatter * np.sqrt(whole * (1 - whole) / sizes[split])
            if abs(share - whole) > slack:
                uneven.append(f"{label} is {share:.1%} of {split}, {whole:.1%} of all")
    crossing = []
    for name, noun in (
        ("group", "groups"),
        ("source_pixel_sha256", "source pictures"),
        ("pixel_sha256", "decoded pictures"),
    ):
        pairs = set(zip(samples[name], samples["split"], strict=True))
        twice = sum(count > 1 for count in Counter(value for value, _ in pairs).values())
        if twice:
            crossing.append(f"{twice} {noun} lie in two splits")
    parts = ", ".join(f"{split} {sizes[split]:,}" for split in splits)
    return [
        Check(
            "every class in every split",
            "fail" if absent else "pass",
            "; ".join(absent) or f"samples: {parts}",
        ),
        Check(
            "shares of the classes in the splits",
            "fail" if uneven else "pass",
            "; ".join(uneven) or f"within {100 * SHARE_TOLERANCE:.0f} points of the whole's",
        ),
        Check(
            "splits are apart",
            "fail" if crossing else "pass",
            "; ".join(crossing) or "no group, source or decoded picture lies in two",
        ),
    ]


def _twin_check(samples: _Samples) -> Check:
    """No decoded picture has two labels; one that its codec left unchanged carries no trace."""
    changed = ~samples["unchanged"]
    pairs = set(zip(samples["pixel_sha256"][changed], samples["label"][changed], strict=True))
    labels: dict[str, list[str]] = {}
    for pixels, label in sorted(pairs):
        labels.setdefault(pixels, []).append(label)
    torn = Counter(" and ".join(names) for names in labels.values() if len(names) > 1)
    copies = len(samples) - len(set(zip(samples["pixel_sha256"], samples["history"], strict=True)))
    text = "; ".join(f"{count} pictures are both {names}" for names, count in torn.items())
    return Check(
        "one label for each decoded picture",
        "fail" if torn else "pass",
        text or f"{copies} samples repeat another of their class",
    )


def _limits(samples: _Samples, strata: Sequence[Stratum]) -> list[str]:
    """What cannot be matched, in words."""
    limits = []
    for stratum in strata:
        if not stratum.missed or stratum.name.startswith("every "):
            continue
        codecs = ", ".join(
            f"{codec} in {share:.1%}{' (not compared)' if codec in stratum.left_out else ''}"
            for codec, share in stratum.missed.items()
        )
        limit = f"{stratum.name} was missed by {codecs} of the samples; these match no other class."
        if stratum.delivered is not None:
            limit += (
                f" With them the facts give the class away in {stratum.delivered.accuracy:.1%} "
                f"(chance {stratum.delivered.chance:.1%}): leave out what has not *reached* it."
            )
        limits.append(limit)
    unchanged = Counter(samples["label"][samples["unchanged"]].tolist())
    if unchanged:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(unchanged.items()))
        limits.append(
            f"Samples that decode to the very source: {names}. They carry no trace of their codec: "
            "patches are not cut from them, and whoever reads the manifest should leave them out "
            "(infinite psnr_db)."
        )
    free = sorted(set(samples["label"][samples["target_kind"] == "none"]))
    if free:
        limits.append(
            f"{', '.join(free)} has no target, so its size and fidelity match no other class's: "
            "never give a classifier the size of a file."
        )
    for kind, unmatched in (("ratio", "fidelity (SSIM, PSNR)"), ("ssim", "file size")):
        if kind in samples["target_kind"]:
            limits.append(
                f"On {kind} targets {unmatched} is not matched: it differs between codecs by "
                "nature. The figures are given apart and decide nothing."
            )
    if "mean_red" not in samples.facts:
        limits.append("The manifest has no mean colours, so they were not audited.")
    if "file_bytes" not in samples.facts:
        limits.append(
            "Some stored files were made after the labelled encode: instead of their bytes, the "
            "ratio and the bits per pixel of that encode were audited."
        )
    return limits


def _traits(samples: _Samples) -> list[Trait]:
    params = [json.loads(text) for text in samples["params"]]
    columns: dict[str, list[Any]] = {
        "chroma subsampling": [item.get("subsampling") for item in params],
        "bit depth": [item.get("bit_depth") for item in params],
        "encoder": list(samples["encoder"]),
        "container, and with it the decoder": list(samples["container"]),
    }
    for side in (8, 16):
        whole = (np.rint(np.exp(samples.facts[name])) % side == 0 for name in ("width", "height"))
        columns[f"both sides multiples of {side}"] = [
            "yes" if both else "no" for both in np.logical_and(*whole)
        ]
    traits = (_trait(name, values, samples["label"]) for name, values in columns.items())
    return [trait for trait in traits if trait.shares]


def _trait(name: str, values: Sequence[Any], labels: npt.NDArray[Any]) -> Trait:
    """Shares by class; classes without such a parameter (None) are left out."""
    by_class: dict[str, Counter[str]] = {}
    for label, value in zip(labels, values, strict=True):
        if value is not None:
            by_class.setdefault(str(label), Counter())[str(value)] += 1
    owners: dict[str, list[str]] = {}
    for label, counts in sorted(by_class.items()):
        for value in counts:
            owners.setdefault(value, []).append(label)
    own = {value: who[0] for value, who in sorted(owners.items()) if len(who) == 1}
    return Trait(
        name=name,
        shares={
            label: {value: n / sum(counts.values()) for value, n in counts.most_common()}
            for label, counts in sorted(by_class.items())
        },
        # Where every class has values of its own, as with containers, that is its nature.
        exclusive={} if len(own) == len(owners) else own,
    )


def _numbers(table: pa.Table, name: str) -> Floats:
    """A column as floats, NaN where null."""
    values = table[name].to_pylist()
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
