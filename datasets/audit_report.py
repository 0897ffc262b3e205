"""What a bias audit found (`datasets.audit`): figures, verdict, and how they are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MARGIN = 0.05
"""The facts-only classifier may be this much over chance, in balanced accuracy."""

Status = Literal["pass", "fail", "undecided"]


@dataclass(frozen=True)
class Check:
    """One thing that must hold, and whether it does.

    Attributes:
        name: What is checked.
        status: *undecided* where there are too few sources, or nothing to compare.
        text: The figures in words.
    """

    name: str
    status: Status
    text: str


@dataclass(frozen=True)
class Guess:
    """How well the label is guessed from some facts, cross-validated by group.

    Attributes:
        facts: Names of the facts.
        accuracy: Balanced accuracy, 0 … 1: the better of extremely randomised trees and a
            logistic regression.
        chance: 1 ÷ number of classes.
        standard_error: Of `accuracy`, by bootstrap over groups.
        recalls: Share of each class that is recognised.
    """

    facts: tuple[str, ...]
    accuracy: float
    chance: float
    standard_error: float
    recalls: dict[str, float]

    @property
    def excess(self) -> float:
        return self.accuracy - self.chance


@dataclass(frozen=True)
class Stratum:
    """Samples of one target, or of all targets of one kind.

    Attributes:
        name: Such as ``"ratio 5"``.
        samples: Number of samples compared: of the sources for which all compared codecs met the
            target.
        groups: Number of groups of sources among them.
        classes: Classes compared.
        missed: Codecs that missed the target, with the share of their samples.
        left_out: Those of them that missed it too often to be compared.
        matched: The guess from facts that should be equal; None where nothing can be compared.
        unmatched: The guess from facts that differ by nature.
        delivered: The guess from the same facts as `matched` with all samples, also those that
            missed the target; None where none did.
        telling: Facts by their information on the label in bits, beyond the permuted labels'.
    """

    name: str
    samples: int
    groups: int
    classes: tuple[str, ...]
    missed: dict[str, float]
    left_out: tuple[str, ...]
    matched: Guess | None
    unmatched: Guess | None
    delivered: Guess | None
    telling: dict[str, float]


@dataclass(frozen=True)
class Information:
    """Mutual information of the label with one fact, given the target.

    Attributes:
        kind: Kind of target.
        fact: Name of the fact; ``source`` is the picture itself.
        matched: Whether targets of this kind should make the fact equal across classes.
        bits: As counted.
        baseline: The same with labels permuted within each source, on average: what a finite
            number of samples shows though nothing is there.
    """

    kind: str
    fact: str
    matched: bool
    bits: float
    baseline: float


@dataclass(frozen=True)
class Trait:
    """A property of the encodes, as shares of its values in each class.

    Attributes:
        name: Such as ``"chroma subsampling"``.
        shares: For each class that has this property the shares of its values.
        exclusive: For each value that one class alone has, this class.
    """

    name: str
    shares: dict[str, dict[str, float]]
    exclusive: dict[str, str]


@dataclass(frozen=True)
class Audit:
    """What the audit found.

    Attributes:
        samples: Number of samples that are well.
        groups: Number of groups of sources.
        checks: What must hold.
        limits: What the dataset cannot promise, in words.
        strata: Guesses by target.
        information: Mutual information by kind of target and fact.
        traits: Categorical comparisons; for information, they decide nothing.
    """

    samples: int
    groups: int
    checks: list[Check]
    limits: list[str]
    strata: list[Stratum] = field(default_factory=list)
    information: list[Information] = field(default_factory=list)
    traits: list[Trait] = field(default_factory=list)

    @property
    def verdict(self) -> Status:
        """*fail* where one check fails, else *undecided* where one is, else *pass*."""
        statuses = {check.status for check in self.checks}
        return next((word for word in ("fail", "undecided") if word in statuses), "pass")

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    def to_json(self) -> dict[str, Any]:
        """All figures, JSON-ready."""
        return {"verdict": self.verdict, "passed": self.passed, **dataclasses.asdict(self)}

    def lines(self) -> list[str]:
        """For a terminal: each check, what cannot be promised, and the verdict."""
        words = {"pass": "ok", "fail": "FAIL", "undecided": "?"}
        width = max(len(check.name) for check in self.checks)
        lines = [
            f"{words[check.status]:<4}  {check.name:<{width}}  {check.text}"
            for check in self.checks
        ]
        lines += [f"note  {limit}" for limit in self.limits]
        return [*lines, f"Bias audit: {self.verdict}"]

    def to_markdown(self) -> str:
        """A section of the dataset card."""
        parts = [
            "## Bias audit",
            f"**{self.verdict.capitalize()}**, over {self.samples:,} samples of {self.groups:,} "
            "groups of sources. A classifier that sees facts about the files and no picture must "
            f"stay within {100 * MARGIN:.0f} points of chance on the facts that a target is meant "
            "to match.",
            _table(
                ("check", "result", "figures"),
                [(check.name, check.status, check.text) for check in self.checks],
            ),
        ]
        if self.limits:
            parts += ["### What this dataset cannot promise"]
            parts += ["\n".join(f"- {limit}" for limit in self.limits)]
        guesses = [item for item in self.strata if item.matched is not None]
        if guesses:
            parts += [
                "### Guessing the class from facts",
                "Balanced accuracy, cross-validated by group of sources, ± its standard error. "
                "*Matched* facts are those that the target makes equal, with the picture's "
                "geometry and mean colour; they decide. *Unmatched* facts differ by nature, "
                "because codecs differ in fidelity at equal size and in size at equal fidelity: "
                "their figure is no fault of the dataset. Compared are the sources for which every "
                "class met the target; *as delivered* is the guess from the matched facts with "
                "the samples that missed it.",
                _table(
                    (
                        *("target", "classes", "samples", "chance", "matched facts"),
                        *("unmatched facts", "as delivered"),
                    ),
                    [
                        (
                            item.name,
                            len(item.classes),
                            item.samples,
                            f"{item.matched.chance:.1%}",
                            _percent(item.matched),
                            _percent(item.unmatched),
                            _percent(item.delivered),
                        )
                        for item in guesses
                        if item.matched is not None
                    ],
                ),
            ]
        if self.information:
            parts += [
                "### Mutual information with the class",
                "In bits, given the target; *by chance* is what permuted labels show.",
                _table(
                    ("targets", "fact", "matched", "bits", "by chance"),
                    [
                        (
                            item.kind,
                            item.fact,
                            "yes" if item.matched else "no",
                            f"{item.bits:.3f}",
                            f"{item.baseline:.3f}",
                        )
                        for item in self.information
                    ],
                ),
            ]
        if self.traits:
            parts += ["### Encoder properties by class"]
        for trait in self.traits:
            parts += [
                f"**{trait.name.capitalize()}**"
                + (
                    ", only one class has: "
                    + ", ".join(f"{value} ({label})" for value, label in trait.exclusive.items())
                    if trait.exclusive
                    else ""
                ),
                _table(
                    ("class", "shares"),
                    [
                        (label, ", ".join(f"{value} {share:.0%}" for value, share in row.items()))
                        for label, row in trait.shares.items()
                    ],
                ),
            ]
        return "\n\n".join(parts) + "\n"


def _percent(guess: Guess | None) -> str:
    return "" if guess is None else f"{guess.accuracy:.1%} ± {guess.standard_error:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
