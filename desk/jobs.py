"""What the worker processes of the service do: an upload in, an answer or a refusal out.

Uploads stay in memory. Errors become refusals here, because their causes do not survive the way
back to the service.
"""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, ParamSpec

from desk.error_rates import read_error_rates
from desk.examination import examine_bytes
from desk.report import json_bytes, printable, report_model
from desk.tool_facts import model_facts, tool_facts
from imagecompression import CODECS, RatioTarget, SsimTarget, Target, codec_from_params
from imagecompression.codec import CodecError, TooManyPixelsError, lower_pixel_limit
from imagecompression.image_io import UnknownFormatError, decode_image
from imagecompression.transcoding import compress_picture, parse_settings
from train.classification import classify
from train.run import Run
from train.verdict import VerdictError, as_json

ReportFormat = Literal["json", "html", "pdf"]

MEDIA_TYPES = {
    "jpeg": "image/jpeg",
    "jpeg2000": "image/jp2",
    "jpegxr": "image/jxr",
    "webp": "image/webp",
    "avif": "image/avif",
    "heic": "image/heic",
    "jpegxl": "image/jxl",
    "kmeans": "image/png",
    "uncompressed": "image/png",
}
"""Registered media types of the codecs' files; the others' are plain bytes."""

OTHER_TYPE = "application/octet-stream"
JSON_TYPE = "application/json"

_NO_MEMORY = ("bad allocation", "bad_alloc", "Insufficient memory", "Failed to allocate")
"""What C++'s, onnxruntime's and OpenCV's errors say."""

_P = ParamSpec("_P")


@dataclass(frozen=True)
class Upload:
    """A file that was sent.

    Attributes:
        name: For reports and messages; see `clean_name`.
        data: All of it.
    """

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """The body of a response, and headers beside its type."""

    body: bytes = field(repr=False)
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """Why an upload gets no answer; `status` is the HTTP status, 4xx."""

    status: int
    reason: str


@dataclass(frozen=True)
class Goal:
    """What a compressed file should measure: one of these, or none to take the codec as it is.

    Attributes:
        ratio: Compression ratio, 20 for 20:1.
        file_bytes: Size of the file.
        ssim: SSIM to the upload.
    """

    ratio: float | None = None
    file_bytes: int | None = None
    ssim: float | None = None


def clean_name(name: str | None) -> str:
    r"""The last part of the name of an upload, with escapes for what cannot be seen.

    >>> clean_name("../../etc/passwd"), clean_name("C:\\photos\\a.jpg"), clean_name(None)
    ('passwd', 'a.jpg', 'upload')
    """
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    return printable(last[:200]) or "upload"


def prepare(run: Path, max_pixels: int, memory_bytes: int) -> dict[str, Any]:
    """Make this process ready to judge uploads by a run; returns what GET /version tells.

    Args:
        run: The run directory.
        max_pixels: Pictures over this are refused.
        memory_bytes: What the process may take.

    Raises:
        ImageCompressionError: The run cannot be loaded.
    """
    loaded = _run(run)
    loaded.prepare()
    read_error_rates(loaded.path, loaded.model_sha256)
    facts = {"tool": _tool(), "model": model_facts(loaded)}
    _limit_memory(memory_bytes)
    lower_pixel_limit(max_pixels)
    return facts


def _refusing(job: Callable[_P, Answer]) -> Callable[_P, Answer | Refusal]:
    """`job`, with errors that are the upload's as refusals; others are faults of the service."""

    @functools.wraps(job)
    def refusing(*args: _P.args, **kwargs: _P.kwargs) -> Answer | Refusal:
        try:
            return job(*args, **kwargs)
        except Exception as error:
            if _lacks_memory(error) or isinstance(error, CodecError | VerdictError):
                return _refusal(error)
            raise

    return refusing


@_refusing
def classify_upload(upload: Upload, run: Path) -> Answer:
    """What `main.py classify --json` prints for the file."""
    verdict = classify(decode_image(upload.data, upload.name).pixels, _run(run))
    content = {"results": [{"file": upload.name, **as_json(verdict)}], "errors": []}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return Answer(f"{text}\n".encode(), JSON_TYPE)


@_refusing
def report_upload(upload: Upload, run: Path, form: ReportFormat) -> Answer:
    """The report that `main.py report` writes for the file.

    A picture of a known kind that is damaged, or smaller than a patch, has a report, too.
    """
    loaded = _run(run)
    found = examine_bytes(upload.data, upload.name, loaded)
    if found.picture is None:
        try:
            decode_image(upload.data, upload.name)
        except CodecError as error:
            if _lacks_memory(error) or _caused_by(error, TooManyPixelsError, UnknownFormatError):
                raise
    model = report_model(found, loaded, _tool())
    if form == "json":
        return Answer(json_bytes(model), JSON_TYPE)
    if form == "html":
        from desk.report_page import report_page

        return Answer(report_page(model, found.map_picture), "text/html; charset=utf-8")
    from desk.report_pdf import report_pdf

    return Answer(report_pdf(model, found.map_picture), "application/pdf")


@_refusing
def compress_upload(upload: Upload, codec: str, settings: list[str], goal: Goal) -> Answer:
    """The file in a codec's format, with what it measures in headers.

    Args:
        upload: The picture.
        codec: A name of `CODECS`.
        settings: Parameters as ``name=value``; a goal overrides the knob among them.
        goal: What to aim at.
    """
    kind = CODECS[codec]
    chosen = codec_from_params(codec, parse_settings(kind, settings))
    loaded = decode_image(upload.data, upload.name)
    target: Target | None = None
    if goal.ratio is not None:
        target = RatioTarget(goal.ratio)
    elif goal.file_bytes is not None:
        target = RatioTarget(loaded.pixels.nbytes / goal.file_bytes)
    elif goal.ssim is not None:
        target = SsimTarget(goal.ssim)
    done = compress_picture(upload.data, loaded, chosen, target)
    params = done.codec.params()
    knob = kind.knob.field if kind.knob else None
    facts: dict[str, Any] = {
        "Codec": codec,
        "Knob": f"{knob}={params[knob]}" if knob else "",
        "Params": params,
        "Ratio": done.measures["ratio"],
        "SSIM": done.measures["ssim"],
        "PSNR": done.measures["psnr_db"],
        "Reached": done.reached,
        "Reason": done.reason,
        "Notes": list(done.notes),
    }
    headers = {f"X-{name}": _header_text(value) for name, value in facts.items()}
    headers["Content-Disposition"] = f'attachment; filename="picture{kind.suffix}"'
    return Answer(done.data, MEDIA_TYPES.get(codec, OTHER_TYPE), headers)


def _header_text(value: Any) -> str:
    """A value for a header: texts in printable ASCII, numbers to 6 decimals, the rest as JSON."""
    if isinstance(value, str):
        return "".join(c if " " <= c <= "~" else f"\\u{ord(c):04x}" for c in value)
    if isinstance(value, float):
        return f"{value:.6f}" if math.isfinite(value) else str(value)
    return json.dumps(value)


def _refusal(error: Exception) -> Refusal:
    if _lacks_memory(error):
        return Refusal(413, "The picture needs more memory than this service gives to one.")
    if _caused_by(error, TooManyPixelsError):
        status = 413
    elif _caused_by(error, UnknownFormatError):
        status = 415
    else:
        status = 422
    reason = str(error).replace(f"{tempfile.gettempdir()}{os.sep}", "")
    return Refusal(status, printable(" ".join(reason.split())))


def _lacks_memory(error: BaseException) -> bool:
    """Whether an allocation has failed, in Python or in a library with exceptions of its own."""
    return _caused_by(error, MemoryError) or any(word in str(error) for word in _NO_MEMORY)


def _caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an error, or one that it came from, is of one of some kinds."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, kinds):
            return True
        found = found.__cause__ or found.__context__
    return False


@functools.cache
def _run(path: Path) -> Run:
    return Run.load(path)


@functools.cache
def _tool() -> dict[str, Any]:
    return tool_facts()


def _limit_memory(memory_bytes: int) -> None:
    """Let allocations fail from there on, where the system can do that."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        memory_bytes = min(memory_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
