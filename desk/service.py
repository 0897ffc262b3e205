"""The service: classify, report and compress over HTTP, for files that nobody vouches for.

A request passes the `desk.gate`, waits for a worker process, and is answered or refused there
(`desk.jobs`). The process that listens decodes nothing. Uploads are kept in memory.
"""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, File, Form, HTTPException, Query, Request, Response
from fastapi import UploadFile as FormFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BaseModel, StringConstraints
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.formparsers import MultiPartParser
from uvicorn.config import LOGGING_CONFIG

from desk.gate import RETRY_SECONDS, Gate, error_response
from desk.jobs import (
    MEDIA_TYPES,
    OTHER_TYPE,
    Answer,
    Goal,
    Refusal,
    ReportFormat,
    Upload,
    classify_upload,
    clean_name,
    compress_upload,
    prepare,
    report_upload,
)
from desk.timed_workers import (
    JobCrashedError,
    JobTimeoutError,
    TimedWorkers,
    WorkersBusyError,
    timed_workers,
)
from imagecompression import CODECS, MAX_PIXELS
from imagecompression.errors import ImageCompressionError

MIN_TOKEN = 16
MAX_TOKEN_FILE = 4096
MAX_HEAD = 1 << 14
"""Bytes of a request's line and headers."""

MAX_SETTINGS = 40
MAX_SETTING = 200


class ServiceError(ImageCompressionError):
    """Settings with which the service cannot be started."""


@dataclass(frozen=True)
class ServiceLimits:
    """What the service bears.

    Attributes:
        workers: Worker processes, at least 1.
        queue: Uploads that wait, or are being sent, beside those being worked on.
        body_bytes: Of a request.
        pixels: Of a picture, at most `imagecompression.MAX_PIXELS`.
        seconds: That a worker may take for a request; it is killed then.
        body_seconds: That a client may take to send a request.
        waiting_seconds: That a request may wait for a worker.
        worker_bytes: Memory of a worker, at least 512 MiB.
    """

    workers: int = os.cpu_count() or 1
    queue: int = 16
    body_bytes: int = 1 << 25
    pixels: int = 24_000_000
    seconds: float = 60.0
    body_seconds: float = 30.0
    waiting_seconds: float = 60.0
    worker_bytes: int = 1 << 31

    def __post_init__(self) -> None:
        allowed = {
            "workers": (1, 1024),
            "queue": (0, 100_000),
            "body_bytes": (1, 1 << 30),
            "pixels": (1, MAX_PIXELS),
            "seconds": (0.01, 86_400),
            "body_seconds": (0.01, 86_400),
            "waiting_seconds": (0.01, 86_400),
            "worker_bytes": (1 << 29, 1 << 50),
        }
        for name, (low, high) in allowed.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ServiceError(f"{name} must lie from {low} to {high}. Received: {value}")


class ErrorBody(BaseModel):
    """The body of every response that is no answer."""

    error: str


class HealthBody(BaseModel):
    """The service is up."""

    status: str


def _known_codec(name: str) -> str:
    if name not in CODECS:
        raise ValueError(f"codecs are {', '.join(CODECS)}")
    return name


Picture = Annotated[FormFile, File(description="The picture file.")]
CodecName = Annotated[
    str, Form(json_schema_extra={"enum": list(CODECS)}), AfterValidator(_known_codec)
]
Setting = Annotated[str, StringConstraints(max_length=MAX_SETTING)]

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request cannot be read",
        401: "No token, or another",
        408: "The body came too slowly",
        413: "Too many bytes or pixels",
        415: "No form, or no picture of a known kind",
        422: "A field is missing or wrong, or the picture is damaged or too small",
        503: "All workers are busy and the queue is full",
        504: "Not done in time",
    }.items()
}


def create_app(
    workers: TimedWorkers, run: Path, limits: ServiceLimits, token: str | None = None
) -> FastAPI:
    """The application.

    Args:
        workers: Prepared by `desk.jobs.prepare`.
        run: The run directory whose model is asked.
        limits: What is refused.
        token: The bearer token that every request but GET /health must bear; None for none.
    """
    # Files of a form would go through the disk from 1 MB on.
    MultiPartParser.spool_max_size = limits.body_bytes + 1
    protected = [Depends(HTTPBearer(auto_error=False))] if token else []  # for the description
    app = FastAPI(
        title="imagecompression",
        description="Which codec has compressed this picture?",
        version=str(workers.prepared["tool"]["imagecompression"]),
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        exception_handlers={
            StarletteHTTPException: _on_http_error,
            RequestValidationError: _on_invalid,
            Exception: _on_fault,
        },
    )
    app.add_middleware(
        Gate,
        token=token,
        uploads=frozenset({"/classify", "/report", "/compress"}),
        places=limits.workers + limits.queue,
        body_bytes=limits.body_bytes,
        body_seconds=limits.body_seconds,
    )

    async def answer(job: Callable[..., Answer | Refusal], file: FormFile, *options: Any) -> Any:
        upload = Upload(clean_name(file.filename), await file.read())
        await file.close()
        try:
            outcome = await workers.run(job, upload, *options)
        except WorkersBusyError as error:
            raise HTTPException(503, str(error), {"Retry-After": str(RETRY_SECONDS)}) from error
        except JobTimeoutError as error:
            raise HTTPException(504, str(error)) from error
        except JobCrashedError as error:
            raise HTTPException(422, f"The picture cannot be worked on: {error}") from error
        if isinstance(outcome, Refusal):
            raise HTTPException(outcome.status, outcome.reason)
        return Response(outcome.body, media_type=outcome.media_type, headers=outcome.headers)

    @app.get("/health")
    async def health() -> HealthBody:
        """Whether the service is up; needs no token."""
        return HealthBody(status="ok")

    @app.get("/version", dependencies=protected, responses={401: ERRORS[401]})
    async def version() -> dict[str, Any]:
        """Versions of the tool and its decoders, and the model that is asked."""
        return dict(workers.prepared)

    @app.post(
        "/classify",
        dependencies=protected,
        responses={**ERRORS, 200: {"description": "The verdict, as classify --json prints it"}},
    )
    async def classify(file: Picture) -> dict[str, Any]:
        """Name the codec that has compressed a picture."""
        return await answer(classify_upload, file, run)

    @app.post(
        "/report",
        dependencies=protected,
        response_class=Response,
        responses={
            **ERRORS,
            200: {
                "description": "The report",
                "content": {"application/json": {}, "text/html": {}, "application/pdf": {}},
            },
        },
    )
    async def report(
        file: Picture,
        form: Annotated[ReportFormat, Query(alias="format")] = "json",
    ) -> Response:
        """Examine a picture: container, pixels, verdict, trace map, and whether they agree."""
        return await answer(report_upload, file, run, form)

    @app.post(
        "/compress",
        dependencies=protected,
        response_class=Response,
        responses={
            **ERRORS,
            200: {
                "description": "The encoded file; headers X-Codec, X-Knob, X-Params, X-Ratio, "
                "X-SSIM, X-PSNR, X-Reached, X-Reason, X-Notes",
                "content": {kind: {} for kind in [*sorted(set(MEDIA_TYPES.values())), OTHER_TYPE]},
            },
        },
    )
    async def compress(
        file: Picture,
        codec: CodecName,
        settings: Annotated[
            list[Setting],
            Form(
                alias="set",
                max_length=MAX_SETTINGS,
                default_factory=list,
                description="Codec parameters as name=value.",
            ),
        ],
        ratio: Annotated[
            float | None, Form(ge=1, le=1e6, description="Compression ratio, 20 for 20:1.")
        ] = None,
        file_bytes: Annotated[
            int | None, Form(alias="bytes", ge=1, le=1 << 40, description="Size of the file.")
        ] = None,
        ssim: Annotated[float | None, Form(gt=0, lt=1, description="SSIM to reach.")] = None,
    ) -> Response:
        """Encode a picture, at one of the targets or with the parameters that are set."""
        goal = Goal(ratio, file_bytes, ssim)
        given = [value for value in (ratio, file_bytes, ssim) if value is not None]
        if len(given) > 1:
            raise HTTPException(422, "Give one of ratio, bytes and ssim.")
        knob = CODECS[codec].knob
        if not given and not settings and knob is not None:
            raise HTTPException(
                422,
                f"Say how strongly to compress: ratio, bytes, ssim, or set={knob.field}=VALUE.",
            )
        return await answer(compress_upload, file, codec, settings, goal)

    return app


def read_token(path: Path) -> str:
    """The token that a file holds, with nothing but line breaks around it.

    Raises:
        ServiceError: It cannot be read, or its text is no token.
    """
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_FILE + 1).strip()
    except OSError as error:
        raise ServiceError(f"{path}: the token cannot be read: {error.strerror}") from error
    if not MIN_TOKEN <= len(token) <= MAX_TOKEN_FILE or not all(33 <= c <= 126 for c in token):
        raise ServiceError(
            f"{path}: a token has {MIN_TOKEN} to {MAX_TOKEN_FILE} printable ASCII characters and "
            "no space."
        )
    return token.decode("ascii")


def serve(
    run: Path,
    host: str,
    port: int,
    limits: ServiceLimits,
    token: str | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until a signal ends it; requests in hand are finished first.

    Args:
        run: The run directory whose model is asked.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        limits: What is refused.
        token: See `create_app`.
        ready: Called with the URL when the workers are prepared.

    Raises:
        ImageCompressionError: The run cannot be loaded, or the workers cannot be started.
        OSError: The address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, port), family=family, backlog=1024) as listener,
        timed_workers(
            limits.workers,
            limits.seconds,
            limits.waiting_seconds,
            prepare,
            run,
            limits.pixels,
            limits.worker_bytes,
        ) as workers,
    ):
        server = uvicorn.Server(server_config(create_app(workers, run, limits, token), limits))
        if ready is not None:
            name = f"[{host}]" if ":" in host else host
            ready(f"http://{name}:{listener.getsockname()[1]}")
        server.run(sockets=[listener])


def server_config(app: FastAPI, limits: ServiceLimits) -> uvicorn.Config:
    """How the application is served: HTTP/1.1 alone, all logs on standard error."""
    logging = copy.deepcopy(LOGGING_CONFIG)
    logging["handlers"]["access"]["stream"] = "ext://sys.stderr"
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=logging,
        log_level="info",
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_graceful_shutdown=round(limits.seconds + limits.waiting_seconds),
    )


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    if error.status_code == 404:
        error.detail = "There is nothing at this address. See /openapi.json."
    elif error.status_code == 405:
        error.detail = f"{request.method} is not for this address. See /openapi.json."
    return error_response(error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    reasons = (
        f"{'.'.join(str(part) for part in one['loc'][1:])}: {one['msg']}" for one in error.errors()
    )
    return JSONResponse({"error": "; ".join(reasons)[:2000]}, 422)


async def _on_fault(request: Request, error: Exception) -> JSONResponse:
    """The traceback goes to the log alone."""
    return JSONResponse({"error": "The service has failed; its log says why."}, 500)
