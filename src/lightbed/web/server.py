"""The page's server: its port, what it lets through, and its end."""

import asyncio
import base64
import logging
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightbed.errors import UserError
from lightbed.runs.log import say
from lightbed.web.site import Site
from lightbed.web.uploads import MEGABYTE, Uploads

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
_TRIED = 100  # ports after the one that is taken
_ATTEMPTS = 4
_RULES = [
    (
        b"content-security-policy",
        b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_EMPTY = base64.b64decode(  # a PNG of one clear pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)
Scope = dict[str, Any]


class Guard:
    """What stands before Gradio: no file is ever read through it, and no address of another host is followed.

    What was sent cannot be fetched again, either: the browser, which asks for it, gets an empty picture.

    Args:
        app: the application behind it.
        folder: of the uploads.
    """

    def __init__(self, app: Any, folder: str) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and ("/proxy=" in path or "/file=" in path or "/file/" in path):
            sent = f"/file={self.folder}/" in path
            kind = b"image/png" if sent else b"text/plain"
            await send(_start(200 if sent else 403, [(b"content-type", kind), *_RULES]))
            await send({"type": "http.response.body", "body": _EMPTY if sent else b"no files are given away"})
            return

        async def guarded(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_RULES]
            await send(message)

        await self.app(scope, receive, guarded)


def _start(status: int, headers: list[tuple[bytes, bytes]]) -> Scope:
    return {"type": "http.response.start", "status": status, "headers": headers}


@contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """Let Gradio keep its files in `folder` and tell nobody anything; its variables are as before at the end."""
    chosen = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
    before = {name: os.environ.get(name) for name in chosen}
    os.environ |= chosen
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def free_port(port: int) -> int:
    """`port`, or the next one that is free; for 0 any free one.

    Raises:
        UserError: there is none.
    """
    for candidate in range(port, min(port + _TRIED, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, candidate))
                return int(probe.getsockname()[1])
    raise UserError(f"port={port}: it and the {_TRIED} after it are taken; give another, or port=0")


@contextmanager
def serving(site: Site) -> Iterator[str]:
    """The page, served from here to the end of the context; gives its address.

    Raises:
        UserError: Gradio is missing, or no port is free.
    """
    uploads = Uploads(site.limits)
    with quiet(uploads.folder):
        try:
            blocks, address = _begun(site, uploads)
            try:
                yield address
            finally:
                blocks.close(verbose=False)
        finally:
            uploads.close()


def _begun(site: Site, uploads: Uploads) -> tuple["gradio.Blocks", str]:
    """The page, running, and its address.

    Gradio gives its server five seconds to come up, which may be too few for a machine that trains; so it is tried
    again, as also where somebody has taken the port meanwhile.
    """
    for _ in range(_ATTEMPTS):
        port = free_port(site.port)
        address = f"http://{HOST}:{port}"
        with suppress(OSError):
            blocks = _launched(site, uploads, port, address)
            if site.port not in (0, port):
                say(f"port {site.port} is taken; the page takes {port}")
            return blocks, address
    raise UserError(f"the page did not start in {_ATTEMPTS} attempts: give another port=, or wait till less runs here")


def _launched(site: Site, uploads: Uploads, port: int, address: str) -> "gradio.Blocks":
    try:
        from lightbed.web.page import looks, page
    except ModuleNotFoundError as error:
        raise UserError(f"the page needs the package {error.name}: pip install 'lightbed[serve]'") from error
    from starlette.middleware import Middleware

    for name in ("httpx", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)

    async def launched() -> tuple["gradio.Blocks", Any]:
        blocks = page(site, uploads, address)
        app, _, _ = blocks.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            max_file_size=int(uploads.limits.megabytes * MEGABYTE),
            state_session_capacity=100,
            footer_links=[],
            app_kwargs={"middleware": [Middleware(Guard, folder=str(uploads.folder))]},
            **looks(),
        )
        return blocks, app

    # where no event loop runs, Gradio makes several and never closes them
    blocks, app = asyncio.run(launched())
    # after each request Gradio sums up all since the start, for a monitor that is off
    queue: Any = blocks._queue
    queue.compute_analytics_summary = lambda _: None
    # Gradio lets two uploads of one content share a file, which one request would delete under the other
    kind: Any = type(app)
    app.__class__ = type("App", (kind,), {"uploaded_file_dir": property(lambda _: str(uploads.new()))})
    return blocks


def run(site: Site, *, browser: bool = False) -> None:
    """Serve until Ctrl-C or SIGTERM, which are its ordinary end; see `serving`.

    Args:
        site: what is served.
        browser: open the page on this machine.
    """
    ended = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: ended.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serving(site) as address:
            say(f"{', '.join(one.name for one in site.served)}: {address}   (Ctrl-C ends it)")
            if browser:
                webbrowser.open(address)
            ended.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
