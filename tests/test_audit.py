"""The bias audit: a balanced dataset passes, each planted leak fails and is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datasets.audit import Audit, AuditError, Check, audit_manifest

CLASSES = ("jpeg", "jpeg2000", "webp", "bpg")
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.audit._TREES", 15)


def manifest(
    sources: int = 40, targets: tuple[tuple[str, float], ...] = (("ratio", 10.0),)
) -> list[Row]:
    """Rows of a build without bias, with the class *uncompressed* beside `CLASSES`."""
    rng = np.random.default_rng(7)
    rows: list[Row] = []
    for number in range(sources):
        width, height = (int(side) for side in rng.integers(200, 800, 2))
        means = rng.uniform(20, 230, 3)
        for label in ("uncompressed", *CLASSES):
            for kind, nominal in [("none", None)] if label == "uncompressed" else targets:
                spread = rng.uniform(0.9, 1.1)
                ratio = nominal * spread if nominal and kind == "ratio" else rng.uniform(5, 40)
                ssim = 1 - (1 - nominal) * spread if nominal and kind == "ssim" else 0.9
                if kind == "ratio":  # every codec has its own fidelity at equal size
                    ssim += 0.01 * CLASSES.index(label)
                rows.append(
                    {
                        "sample_id": f"{number}_{label}_{kind}{nominal}",
                        "status": "ok",
                        "source_id": f"source{number}",
                        "source_pixel_sha256": f"pixels{number}",
                        "group": f"group{number}",
                        "split": ("train", "train", "val", "test")[number % 4],
                        "label": label,
                        "codec": label,
                        "params": "{}" if label == "jpeg2000" else '{"subsampling": "4:2:0"}',
                        "encoder": f"{label} 1.0",
                        "target_kind": kind,
                        "target_nominal": nominal,
                        "reached": True,
                        "history": "single",
                        "container": label,
                        "file_bytes": round(3 * width * height / ratio),
                        "pixel_sha256": f"{number} {label} {kind} {nominal}",
                        "width": width,
                        "height": height,
                        "channels": 3,
                        "ratio": ratio,
                        "bits_per_pixel": 24 / ratio,
                        "psnr_db": float("inf") if label == "uncompressed" else 35.0,
                        "ssim": ssim,
                        "ms_ssim": float("nan"),
                        "mean_red": means[0] + rng.normal(0, 0.5),
                        "mean_green": means[1] + rng.normal(0, 0.5),
                        "mean_blue": means[2] + rng.normal(0, 0.5),
                    }
                )  # fmt: skip
    return rows


def audit(rows: list[Row]) -> Audit:
    return audit_manifest(pa.Table.from_pylist(rows))


def failures(found: Audit) -> dict[str, Check]:
    return {check.name: check for check in found.checks if check.status == "fail"}


def test_balanced_dataset_passes() -> None:
    rows = manifest(80, (("ratio", 10.0), ("ratio", 20.0), ("ssim", 0.9)))
    found = audit(rows)
    assert failures(found) == {} and found.verdict == "pass" and found.passed
    assert [item.name for item in found.strata] == [
        "ratio 10", "ratio 20", "every ratio", "ssim 0.9", "geometry and colour",
    ]  # fmt: skip
    assert found.strata[0].classes == tuple(sorted(CLASSES))
    assert "uncompressed" in found.strata[-1].classes
    for item in found.strata:
        assert item.matched is not None
        assert item.matched.excess <= 0.05
        assert 0 <= item.matched.standard_error < 0.04
    # Fidelity at equal size gives the codec away, by nature; it decides nothing.
    unmatched = found.strata[0].unmatched
    assert unmatched is not None and unmatched.accuracy > 0.9
    by_fact = {(item.kind, item.fact): item for item in found.information}
    assert not by_fact["ratio", "ssim"].matched and by_fact["ratio", "ssim"].bits > 1.4
    assert by_fact["ratio", "source"].bits == pytest.approx(0, abs=1e-9)
    for item in found.information:
        assert not item.matched or item.bits - item.baseline < 0.15, item


def test_reports_are_complete_and_repeatable() -> None:
    rows = manifest(sources=32)
    found = audit(rows)
    content = found.to_json()
    assert json.loads(json.dumps(content)) == json.loads(json.dumps(audit(rows).to_json()))
    assert content["verdict"] == "pass" and content["passed"] is True
    markdown = found.to_markdown()
    assert markdown.startswith("## Bias audit\n\n**Pass**")
    for check in found.checks:
        assert any(check.name in line and line.startswith("ok") for line in found.lines())
        assert check.name in markdown
    assert found.lines()[-1] == "Bias audit: pass"
    assert "never give a classifier the size of a file" in markdown
    chroma = next(trait for trait in found.traits if trait.name == "chroma subsampling")
    assert chroma.shares["jpeg"] == {"4:2:0": 1.0} and "jpeg2000" not in chroma.shares


def widen(row: Row) -> None:
    if row["label"] == "webp":
        row["width"] += 2


def shrink(row: Row) -> None:
    if row["label"] == "bpg":
        for name in ("bits_per_pixel", "file_bytes"):
            row[name] = row[name] * 0.85
        row["file_bytes"] = round(row["file_bytes"])
        row["ratio"] /= 0.85


def tint(row: Row) -> None:
    if row["label"] == "jpeg2000":
        row["mean_red"], row["mean_blue"] = 128.0 + row["mean_red"] / 50, 128.0


def align(row: Row) -> None:
    """Histories with sizes drawn at random, but one class always a multiple of eight."""
    row["history"] = "cropped"
    row["container"] = "uncompressed"
    row["width"] += sum(map(ord, row["label"])) % 8
    if row["label"] == "jpeg":
        row["width"] -= row["width"] % 16
        row["height"] -= row["height"] % 16


@pytest.mark.parametrize(
    ("leak", "check", "named"),
    [
        (shrink, "facts-only classifier, ratio 10", ("bits_per_pixel", "best known: bpg")),
        (tint, "facts-only classifier, geometry and colour", ("mean_blue", "jpeg2000 100%")),
        (widen, "picture sizes", ("webp: 40 samples of another size",)),
        (align, "facts-only classifier, ratio 10", ("height mod 16", "best known: jpeg ")),
    ],
)
def test_planted_leaks_in_facts(
    leak: Callable[[Row], None], check: str, named: tuple[str, ...]
) -> None:
    rows = manifest()
    for row in rows:
        leak(row)
    found = audit(rows)
    assert not found.passed and found.verdict == "fail"
    text = failures(found)[check].text
    for name in named:
        assert name in text


def test_sizes_drawn_from_other_distributions() -> None:
    rows = manifest()
    for row in rows:
        row["history"] = "resized"
        if row["label"] == "bpg":
            row["width"] *= 2
    text = failures(audit(rows))["picture sizes"].text
    assert "bpg: width is distributed otherwise" in text and "height" not in text


def missing(share: float) -> list[Row]:
    """Rows of a build in which one codec misses its target for a share of the sources."""
    rows = manifest(sources=80)
    for number, row in enumerate(r for r in rows if r["label"] == "bpg"):
        if number % 10 < 10 * share:
            row["reached"] = False
            row["ratio"] *= 2
            row["bits_per_pixel"] /= 2
            row["file_bytes"] //= 2
    return rows


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_codec_that_misses_its_target_is_named_and_not_compared(share: float) -> None:
    found = audit(missing(share))
    assert failures(found) == {}
    stratum = found.strata[0]
    assert stratum.missed == {"bpg": share}
    if share < 0.5:  # compared where all met the target
        assert stratum.left_out == () and "bpg" in stratum.classes and stratum.groups == 48
    else:
        assert stratum.left_out == ("bpg",) and "bpg" not in stratum.classes
        assert "not compared: bpg" in found.checks[0].text
    assert stratum.delivered is not None and stratum.delivered.excess > 0.08
    assert f"ratio 10 was missed by bpg in {share:.1%}" in found.limits[0]
    assert f"missed by bpg in {share:.1%}" in found.to_markdown()


def test_miss_that_is_said_to_be_reached_is_a_leak() -> None:
    rows = missing(0.4)
    for row in rows:
        row["reached"] = True
    text = failures(audit(rows))["facts-only classifier, ratio 10"].text
    assert "told by bits_per_pixel" in text or "told by ratio" in text


def test_codec_left_out_at_one_target_is_left_out_of_them_all() -> None:
    rows = manifest(40, (("ratio", 10.0), ("ratio", 20.0)))
    for row in rows:
        row["reached"] = row["label"] != "bpg" or row["target_nominal"] == 20.0
    first, second, every, _ = audit(rows).strata
    assert first.left_out == every.left_out == ("bpg",) and second.left_out == ()
    assert every.classes == first.classes and "bpg" in second.classes


def test_target_that_no_two_codecs_meet_is_undecided() -> None:
    rows = manifest(40)
    for row in rows:
        row["reached"] = row["label"] in ("uncompressed", "jpeg")
    found = audit(rows)
    assert found.verdict == "undecided" and failures(found) == {}
    assert "fewer than two classes" in found.checks[0].text


def test_dropping_what_missed_is_a_leak_too() -> None:
    rows = manifest()
    kept = [row for row in rows if row["label"] != "bpg" or int(row["source_id"][6:]) % 5 > 1]
    text = failures(audit(kept))["classes balanced in each source"].text
    assert "lack samples that others have of the same sources: bpg 40%" in text


def test_few_sources_are_not_judged_unless_the_leak_is_plain() -> None:
    rows = manifest(sources=12)
    found = audit(rows)
    assert found.verdict == "undecided" and not found.passed
    assert "under 30 groups are too few to judge" in found.checks[0].text
    for row in rows:
        row["ratio"] *= 1 + CLASSES.index(row["label"]) if row["label"] in CLASSES else 1
    assert audit(rows).verdict == "fail"


def test_one_class_alone_cannot_be_compared() -> None:
    rows = [row for row in manifest(sources=8) if row["label"] == "jpeg"]
    found = audit(rows)
    assert found.strata[0].matched is None and found.checks[0].status == "undecided"


def test_structural_faults() -> None:
    """Splits that lack classes, share groups or pictures, and pictures with two labels."""
    rows = manifest(sources=32)
    of_val = [row for row in rows if row["split"] == "val"]
    gone = [row for row in of_val if row["label"] == "jpeg"]
    rows = [row for row in rows if row not in gone]
    moved = next(row for row in rows if row["split"] == "train")
    moved["split"] = "test"
    first, second = [row for row in rows if row["label"] in ("webp", "bpg")][:2]
    second["pixel_sha256"] = first["pixel_sha256"]
    failed = next(row for row in rows if row["label"] == "webp" and row is not first)
    failed["status"] = "failed"
    faults = failures(audit(rows))
    assert faults["every class in every split"].text == "val lacks jpeg"
    assert "jpeg is 0.0% of val" in faults["shares of the classes in the splits"].text
    assert "1 groups lie in two splits; 1 source pictures" in faults["splits are apart"].text
    assert faults["one label for each decoded picture"].text == "1 pictures are both bpg and webp"
    assert "1 samples failed; lack" in faults["classes balanced in each source"].text


def test_what_a_codec_left_unchanged_is_told_and_is_no_fault() -> None:
    rows = manifest(sources=32)
    of_source = [row for row in rows if row["source_id"] == rows[0]["source_id"]]
    source = next(row for row in of_source if row["label"] == "uncompressed")
    mild = next(row for row in of_source if row["label"] == "webp")
    mild["pixel_sha256"] = source["pixel_sha256"]
    twin = "one label for each decoded picture"
    assert failures(audit(rows))[twin].text == "1 pictures are both uncompressed and webp"
    mild["psnr_db"] = float("inf")
    found = audit(rows)
    assert twin not in failures(found)
    assert any("webp (1)" in limit and "leave them out" in limit for limit in found.limits)


def test_values_that_one_class_alone_has() -> None:
    rows = manifest(sources=6)
    for row in rows:
        if row["label"] in ("jpeg", "webp"):
            row["params"] = json.dumps({"subsampling": "4:2:0", "bit_depth": 8})
    rows[1]["params"] = json.dumps({"subsampling": "4:1:1", "bit_depth": 8})
    traits = {trait.name: trait for trait in audit(rows).traits}
    assert rows[1]["label"] == "jpeg"
    assert traits["chroma subsampling"].exclusive == {"4:1:1": "jpeg"}
    assert set(traits["bit depth"].shares) == {"jpeg", "webp"}
    assert traits["bit depth"].exclusive == {}


def test_manifest_without_mean_colours_and_random_targets() -> None:
    rows = manifest(sources=31)
    for row in rows:
        row["target_nominal"] = None
        for name in ("mean_red", "mean_green", "mean_blue"):
            del row[name]
    found = audit(rows)
    assert found.passed and found.strata[0].name == "ratio at random"
    assert any("no mean colours" in limit for limit in found.limits)


def test_manifests_that_cannot_be_audited() -> None:
    rows = manifest(sources=2)
    table = pa.Table.from_pylist(rows)
    with pytest.raises(AuditError, match="lacks the columns ratio"):
        audit_manifest(table.drop_columns(["ratio"]))
    for row in rows:
        row["status"] = "failed"
    with pytest.raises(AuditError, match="no sample that is well, and 10 that failed"):
        audit(rows)
