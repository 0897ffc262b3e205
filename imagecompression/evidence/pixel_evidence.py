"""Placeholder for the classical second opinion, which is built elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from imagecompression.codec import Image
from imagecompression.evidence.finding import Finding


@dataclass(frozen=True)
class PixelEvidence:
    """Opinion and findings on decoded pixels."""

    opinion: str | None
    findings: tuple[Finding, ...]


def pixel_evidence(image: Image) -> PixelEvidence:
    """Nothing yet, and says so."""
    return PixelEvidence(None, (Finding("pixel evidence", None, "NOT_AVAILABLE", "not built yet"),))
