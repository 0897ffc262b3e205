"""The web server: Streamlit with all that talks to others turned off."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

from desk.app.settings import AppError, AppSettings, configure
from desk.app.upload import MAX_UPLOAD_BYTES
from train.run import Run

START = Path(__file__).with_name("start.py")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(settings: AppSettings, host: str = LOOPBACK[0], port: int = 8501) -> None:
    """Serve the app until the process is told to end.

    Args:
        settings: The run and the root.
        host: Address to listen on.
        port: 1 to 65535.

    Raises:
        AppError: The root is no folder, or the host is no address.
        RunError: There is no run in the folder named.
    """
    options = server_options(host, port)
    if settings.root is not None and not settings.root.is_dir():
        raise AppError(f"--root takes a folder. Received: {settings.root}")
    if settings.run is not None:
        Run.load(settings.run)
    configure(settings)
    from streamlit.web import bootstrap  # slow to import

    flags = {name.replace(".", "_"): value for name, value in options.items()}
    bootstrap.load_config_options(flag_options=flags)
    bootstrap.run(str(START), False, [], flags)


def server_options(host: str, port: int) -> dict[str, Any]:
    """Streamlit's options: no statistics, no look at the network, no traceback on a page.

    On a loopback address only its own names are answered to, so that no web page elsewhere reaches
    the app under a name of its own that points here (DNS rebinding).

    >>> server_options("127.0.0.1", 8501)["browser.gatherUsageStats"]
    False

    Raises:
        AppError: `host` is neither ``localhost`` nor an IP address.
    """
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise AppError(f"--host takes localhost or an IP address. Received: {host!r}") from None
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.showEmailPrompt": False,
        "server.allowedHosts": ["127.0.0.1", "localhost", "[::1]"] if host in LOOPBACK else [],
        "server.maxUploadSize": MAX_UPLOAD_BYTES >> 20,
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": False,
        "browser.serverAddress": "localhost" if host in LOOPBACK else host,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": "false",
        "client.toolbarMode": "minimal",
        # Its text comes with a look at the address that the Internet sees.
        "logger.hideWelcomeMessage": True,
        "runner.magicEnabled": False,
        "global.developmentMode": False,
    }
