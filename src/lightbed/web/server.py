"""The page's server: its port, what it lets through, and its end."""

import logging
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightbed.errors import UserError
from lightbed.runs.log import say
from lightbed.web.examples import Example
from lightbed.web.served import Served
from lightbed.web.uploads import Limits, Uploads

if TYPE_CHECKING:
    import gradio

HOST = "127.0.0.1"
_TRIED = 100  # ports after the one that is taken
_SWEEP = 20.0  # seconds between two looks for forgotten uploads
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
Scope = dict[str, Any]


class Guard:
    """What stands before Gradio: no addresses of other hosts are followed, in the server or in the browser.

    Args:
        app: the application behind it.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and ("/proxy=" in path or "/file=http" in path.lower()):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"other hosts are not asked"})
            return

        async def guarded(message: Scope) -> None:
            if message["type"] == "http.response.start":
                rules = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.encode(), value.encode()) for name, value in rules.items()),
                ]
            await send(message)

        await self.app(scope, receive, guarded)


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
def serving(
    served: Sequence[Served],
    examples: Sequence[Example],
    limits: Limits,
    config: Mapping[str, Any],
    folder: Path | None = None,
) -> Iterator[str]:
    """The page, served from here to the end of the context; gives its address.

    Args:
        served: the networks.
        examples: images to click on.
        limits: of what is sent.
        config: of the command: `port`, `threshold`, `queue`.
        folder: where what is sent is kept; None: nothing is.

    Raises:
        UserError: Gradio is missing, or no port is free.
    """
    uploads = Uploads(limits)
    with quiet(uploads.folder):
        try:
            try:
                from lightbed.web.page import looks, page
            except ModuleNotFoundError as error:
                raise UserError(f"the page needs the package {error.name}: pip install 'lightbed[serve]'") from error
            port = free_port(config["port"])
            if config["port"] not in (0, port):
                say(f"port {config['port']} is taken; the page takes {port}")
            address = f"http://{HOST}:{port}"
            blocks = page(served, examples, uploads, config, address, folder)
            _launch(blocks, uploads, port, looks())
            try:
                yield address
            finally:
                blocks.close(verbose=False)
        finally:
            uploads.close()


def _launch(blocks: "gradio.Blocks", uploads: Uploads, port: int, looks: Mapping[str, Any]) -> None:
    from starlette.middleware import Middleware

    for name in ("httpx", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
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
        max_file_size=int(uploads.limits.megabytes * 1_000_000),
        state_session_capacity=100,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(Guard)]},
        **looks,
    )
    # Gradio lets two uploads of one content share a file, which one request would delete under the other
    kind: Any = type(app)
    app.__class__ = type("App", (kind,), {"uploaded_file_dir": property(lambda _: str(uploads.new()))})


def run(
    served: Sequence[Served],
    examples: Sequence[Example],
    limits: Limits,
    config: Mapping[str, Any],
    folder: Path | None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, which are its ordinary end; see `serving`."""
    ended = threading.Event()
    before = {kind: signal.signal(kind, lambda *_: ended.set()) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        with serving(served, examples, limits, config, folder) as address:
            names = ", ".join(one.name for one in served)
            say(f"{names}: {address}   (Ctrl-C ends it)")
            if config["open"]:
                webbrowser.open(address)
            while not ended.wait(_SWEEP):
                pass
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
