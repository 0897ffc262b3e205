"""Hostile files for the decoders that are our own: kept ones, and some new ones each time.

`tests/golden/fuzz` holds inputs of `benchmarks.fuzzing` that once were findings or that cost a
decoder the most time and memory.
"""

from __future__ import annotations

import functools
import random
import time
from pathlib import Path

import pytest
from conftest import photograph_like
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzzing import CPU_LIMIT_S, FUZZED, mutated, outcome
from imagecompression import CODECS, Codec, CodecError, Image

KEPT = sorted((Path(__file__).parent / "golden/fuzz").iterdir())
KINDS = {kind.suffix: kind for kind in CODECS.values()}


@functools.cache
def seeds(name: str) -> list[bytes]:
    """Small files of some of a codec's settings."""
    settings = CODECS[name].variants()[::3]
    pictures = [photograph_like(20, 24, channels) for channels in (1, 3)]
    return [setting.encode(picture) for setting in settings for picture in pictures]


def check(kind: type[Codec], data: bytes) -> None:
    """Both decoders give a picture or a `CodecError`, in little CPU time."""
    for with_extras in (False, True):
        started = time.process_time()
        assert outcome(kind, data, with_extras) in ("decoded", "refused")
        assert time.process_time() - started < CPU_LIMIT_S


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_kept_inputs_are_decoded_or_refused(path: Path) -> None:
    check(KINDS[path.suffix], path.read_bytes())


def test_every_fuzzed_decoder_has_kept_inputs() -> None:
    assert {KINDS[path.suffix].name for path in KEPT} == set(FUZZED)


@pytest.mark.parametrize("name", FUZZED)
@given(number=st.integers(0, 2**64))
@settings(max_examples=300, deadline=None)
def test_mutated_files_are_decoded_or_refused(name: str, number: int) -> None:
    check(CODECS[name], mutated(name, seeds(name), random.Random(number)))


def test_a_fault_in_a_decoder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    (data, *_), kind = seeds("svd"), CODECS["svd"]
    picture = kind.decode(data)

    def report(decode: object) -> str:
        monkeypatch.setattr(kind, "decode", decode)
        return outcome(kind, data, with_extras=False)

    def refuse(data: bytes) -> Image:
        raise CodecError("refused")

    assert report(lambda data: picture) == "decoded"
    assert report(refuse) == "refused"
    assert report(lambda data: {}["no such key"]).startswith("KeyError")
    assert report(lambda data: picture.astype(float)).startswith("malformed picture")
    assert report(lambda data: picture[:, ::-1]).startswith("malformed picture")
