"""What every request to the service has to pass before anything is made of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import http
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health"})
"""Answered without a token."""

RETRY_SECONDS = 5

DROPPED_BYTES = 1 << 26
"""How much of the body of a refused request is read and dropped, so that the client, who may read
nothing before all is sent, gets the answer. Then the connection is closed."""


class Gate:
    """ASGI middleware: token, place in the queue, type, size and time of the body.

    A place is taken before the body is read, so that all bodies together are bounded.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        uploads: frozenset[str],
        places: int,
        body_bytes: int,
        body_seconds: float,
    ) -> None:
        """
        Args:
            app: What is behind the gate.
            token: The bearer token; None lets everybody in.
            uploads: Paths to which files are sent.
            places: Uploads that may be in hand at a time.
            body_bytes: Most bytes of a body.
            body_seconds: Time that a client has to send it.
        """
        self._app = app
        self._token = None if token is None else _digest(token.encode())
        self._uploads = uploads
        self._places = places
        self._body_bytes = body_bytes
        self._body_seconds = body_seconds
        self._taken = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_safe_headers(send)
        try:
            self._check(scope, headers)
        except HTTPException as refused:
            loud = headers.get("expect", "").lower() != "100-continue"
            dropped = loud and await self._drop(receive, 0)
            response = error_response(refused)
            if not dropped:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        if not self._is_upload(scope):
            await self._app(scope, receive, send)
            return
        self._taken += 1
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self._taken -= 1

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Raise unless what the head of a request says is in order."""
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            sent = _digest(given.strip().encode("latin-1", "replace"))
            # Digests have one length, so that the time tells nothing about the token.
            if not hmac.compare_digest(sent, self._token) or scheme.lower() != "bearer":
                raise HTTPException(
                    401,
                    "This service wants its token: Authorization: Bearer TOKEN.",
                    {"WWW-Authenticate": "Bearer"},
                )
        if not self._is_upload(scope):
            return
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._body_bytes:
            raise self._too_large()
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise HTTPException(
                415, "Send a form (multipart/form-data) with the picture in the field file."
            )
        if self._taken >= self._places:
            raise HTTPException(
                503,
                "All workers are busy and the queue is full. Try again later.",
                {"Retry-After": str(RETRY_SECONDS)},
            )

    def _is_upload(self, scope: Scope) -> bool:
        return scope["method"] == "POST" and scope["path"] in self._uploads

    def _limited(self, receive: Receive) -> Receive:
        """`receive` that counts the bytes that really come, and the time."""
        received = 0
        complete = False
        deadline = asyncio.get_running_loop().time() + self._body_seconds

        async def limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"The body did not arrive within {self._body_seconds:g} s.",
                    {"Connection": "close"},
                ) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._body_bytes:
                if not complete and not await self._drop(receive, received):
                    raise self._too_large({"Connection": "close"})
                raise self._too_large()
            return message

        return limited

    def _too_large(self, headers: dict[str, str] | None = None) -> HTTPException:
        reason = f"A request may have {self._body_bytes:,} bytes. Send a smaller file."
        return HTTPException(413, reason, headers)

    async def _drop(self, receive: Receive, received: int) -> bool:
        """Read a body and forget it; False if it is too long or too slow to be read to its end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._body_seconds):
                while received <= DROPPED_BYTES:
                    message = await receive()
                    received += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return True
        return False


def error_response(error: Any) -> JSONResponse:
    """``{"error": reason}`` for an HTTP exception, with its status and headers."""
    reason = error.detail or http.HTTPStatus(error.status_code).phrase
    return JSONResponse({"error": reason}, error.status_code, error.headers)


def _with_safe_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cache-Control"] = "no-store"
        await send(message)

    return sending


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
