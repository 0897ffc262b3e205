"""What the web app was started with. It is set once, before the first page is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imagecompression.errors import ImageCompressionError


class AppError(ImageCompressionError):
    """Something asked of the web app that it cannot do; the message is shown on the page."""


@dataclass(frozen=True)
class AppSettings:
    """What the web app was started with.

    Attributes:
        run: Run folder whose model names codecs; None takes the default run.
        root: Folder below which datasets and runs are browsed; None shows none.
    """

    run: Path | None = None
    root: Path | None = None


_settings = AppSettings()


def configure(settings: AppSettings) -> None:
    """Set what `app_settings` returns, for the whole process."""
    global _settings
    _settings = settings


def app_settings() -> AppSettings:
    """What the app was started with."""
    return _settings
