"""What all pages of the app share: texts that are no markup, errors, uploads, commands."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from desk.app.settings import AppError, app_settings
from desk.app.upload import (
    MAX_UPLOAD_BYTES,
    MAX_UPLOAD_PIXELS,
    MAX_UPLOADS,
    Upload,
    without_folders,
)
from desk.report import printable
from desk.tool_facts import tool_facts
from imagecompression.errors import ImageCompressionError
from train.classification import DEFAULT_RUN
from train.run import Run

if TYPE_CHECKING:
    from typing import Any

    from streamlit.runtime.uploaded_file_manager import UploadedFile

BOUNDS = (
    f"Up to {MAX_UPLOAD_BYTES >> 20} MiB and {MAX_UPLOAD_PIXELS // 1_000_000} million pixels a "
    "picture. Nothing is kept after the session."
)


def literal(text: str) -> str:
    r"""A text that Markdown shows as it is: names out of evidence are not to become links.

    >>> literal("![a](b)")
    '\\!\\[a\\]\\(b\\)'
    """
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", printable(text))


@contextmanager
def sentences_for_errors() -> Iterator[None]:
    """Show errors meant for the user as one sentence, without folders of this machine."""
    try:
        yield
    except ImageCompressionError as error:
        settings = app_settings()
        folders = [folder for folder in (settings.root, settings.run, DEFAULT_RUN) if folder]
        st.error(literal(without_folders(str(error), *folders)))
    except OSError as error:
        logging.getLogger(__name__).exception("a page failed")
        st.error(f"A file could not be read or written: {literal(error.strerror or 'unknown')}.")
    except MemoryError:
        st.error("There is not enough memory for this. Take a smaller picture.")


def one_upload(key: str) -> tuple[str, Upload] | None:
    """A field for one picture: an identifier of this very upload and the file, if there is one."""
    found = st.file_uploader("Picture", key=key, help=BOUNDS, max_upload_size=_MEGABYTES)
    return None if found is None else (found.file_id, _upload(found))


def several_uploads(key: str) -> list[tuple[str, Upload | AppError]]:
    """A field for pictures: an identifier of each upload with the file or why it is refused."""
    found = st.file_uploader(
        "Pictures", key=key, accept_multiple_files=True, help=BOUNDS, max_upload_size=_MEGABYTES
    )
    if len(found) > MAX_UPLOADS:
        st.warning(f"The first {MAX_UPLOADS} of {len(found)} files are examined.")
    uploads: list[tuple[str, Upload | AppError]] = []
    for file in found[:MAX_UPLOADS]:
        try:
            uploads.append((file.file_id, _upload(file)))
        except AppError as error:
            uploads.append((file.file_id, error))
    return uploads


def show_command(line: str) -> None:
    """The command line that does what the page did."""
    st.caption("The same on the command line:")
    st.code(line, language="bash", wrap_lines=True)


@st.cache_resource(show_spinner="Loading the model …")
def loaded_run() -> Run:
    """The run that names codecs, its model loaded once for all sessions."""
    run = Run.load(app_settings().run or DEFAULT_RUN)
    _ = run.onnx or run.model
    return run


@st.cache_resource(show_spinner=False)
def tool() -> dict[str, Any]:
    """Versions of the tool, for reports."""
    return tool_facts()


_MEGABYTES = MAX_UPLOAD_BYTES >> 20


def _upload(found: UploadedFile) -> Upload:
    return Upload(found.name, found.getvalue())
