"""The TestBed page itself, made with Gradio: what is sent goes in, what the networks see is drawn by the browser."""

import html
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import gradio as gr

from lightbed.errors import UserError
from lightbed.web import answers
from lightbed.web.api import NETWORK, documentation, endpoints, picture_input, told_of
from lightbed.web.examples import Example
from lightbed.web.keep import keep
from lightbed.web.served import KINDS, Served
from lightbed.web.site import Site
from lightbed.web.uploads import Upload, Uploads

_THUMBNAIL = 160  # pixels of the longer side
_TINY = 64  # pixels of the longer side up to which they are shown as pixels


def looks() -> dict[str, Any]:
    """The page's look, as `launch` takes it: fonts of the system, so that none are fetched."""
    return {
        "theme": gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        "css": _asset("page.css"),
    }


def page(site: Site, uploads: Uploads, address: str) -> gr.Blocks:
    """The page and its API.

    Args:
        site: what it shows.
        uploads: where files arrive.
        address: of the page, for its documentation.
    """
    names = " and ".join(one.title for one in site.served)
    what = f"What {names} {'sees' if len(site.served) == 1 else 'see'} in an image"
    own: dict[str, Any] = {"apply_default_css": False}
    blocks = gr.Blocks(title="Lightbed TestBed", analytics_enabled=False, fill_width=True)
    with blocks:
        gr.HTML(f"<h1>TestBed</h1><p>{html.escape(what)}</p>", elem_id="tb-head", **own)
        with gr.Row(elem_id="tb-body"):
            with gr.Column(scale=1, min_width=300):
                picture = picture_input(
                    "Image",
                    sources=["upload", "webcam", "clipboard"],
                    height=230,
                    buttons=[],
                    placeholder=f"Drop an image here\n{site.limits}",
                    elem_id="tb-image",
                )
                strip = gr.HTML(_strip(site.examples), js_on_load=_asset("examples.js"), elem_id="tb-examples", **own)
            with gr.Column(scale=3, min_width=320):
                parts: dict[str, Any] = {"html_template": _asset("viewer.html"), "js_on_load": _asset("viewer.js")}
                viewer = gr.HTML(json.dumps(_nothing(site)), elem_id="tb-viewer", **parts, **own)
        with gr.Accordion("Use it from Python", open=False, elem_id="tb-api"):
            gr.Markdown(documentation(site, address))
        _wire(picture, strip, viewer, site, uploads)
        endpoints(site, uploads)
    blocks.queue(max_size=site.queue, api_open=False)
    return blocks


def _wire(picture: gr.Image, strip: gr.HTML, viewer: gr.HTML, site: Site, uploads: Uploads) -> None:
    """Let the viewer answer to images and examples; the input is empty again at once."""

    def sent(path: str | None) -> Iterator[tuple[Any, Any]]:
        if path is None:  # the page has emptied the input itself
            yield gr.skip(), gr.skip()
            return
        for told in look(site, lambda: uploads.read(path)):
            yield None, json.dumps(told)

    def clicked(event: gr.EventData) -> Iterator[tuple[Any, str]]:
        for told in look(site, lambda: chosen(site.examples, event._data)):
            yield None, json.dumps(told)

    options: dict[str, Any] = {"outputs": [picture, viewer], "show_progress": "hidden", "api_visibility": "private"}
    picture.input(sent, [picture], **options, **NETWORK)
    strip.click(clicked, None, **options, **NETWORK)


def look(site: Site, read: Callable[[], Upload]) -> Iterator[dict[str, Any]]:
    """What the viewer shows of an image, again after each network: `image`, `panels`, and `busy` or `error`."""
    told = _nothing(site)
    try:
        upload = read()
        told |= {"image": answers.shown(upload.image), "name": upload.name}
        for one in site.served:
            yield {**told, "busy": f"{one.title} is looking at {upload.name} ..."}
            told["panels"].append(_panel(one, upload, site))
    except Exception as error:  # whatever one image does, the next one is answered
        told["error"] = told_of(error)
    yield told


def _panel(one: Served, upload: Upload, site: Site) -> dict[str, Any]:
    """What one network says; where it fails, that."""
    try:
        seen = one.ask(upload.image)
    except UserError as error:
        return {"title": one.title, "kinds": one.kinds, "failed": str(error)}
    if site.folder is not None and upload.content:
        keep(site.folder, upload, answers.for_api(one, seen, upload.image, site.threshold))
    return answers.for_page(one, seen, upload.image)


def chosen(examples: Sequence[Example], clicked: Any) -> Upload:
    """The example that was clicked on, as if it had been sent.

    Raises:
        UserError: there is none of this number.
    """
    index = clicked.get("index") if isinstance(clicked, dict) else None
    if not isinstance(index, int) or not 0 <= index < len(examples):
        raise UserError("there is no such example")
    return Upload(examples[index].name, b"", examples[index].image)


# -- what is written on it ---------------------------------------------------------------------------------------------


def _nothing(site: Site) -> dict[str, Any]:
    """What the viewer shows before there is an image: its tabs, those that some network has something for."""
    able = [[kind, title] for kind, title in KINDS.items() if any(kind in one.kinds for one in site.served)]
    return {"kinds": able, "threshold": site.threshold, "panels": []}


def _strip(examples: Sequence[Example]) -> str:
    """The examples as buttons; each says which one it is."""
    if not examples:
        return ""
    buttons = []
    for i, one in enumerate(examples):
        name, tiny = html.escape(one.name), " class=tb-tiny" * (max(one.image.shape[-2:]) <= _TINY)
        drawn = f'<img src="{answers.thumbnail(one.image, _THUMBNAIL)}" alt=""{tiny}>'
        buttons.append(f'<button type="button" data-index="{i}" aria-label="{name}" title="{name}">{drawn}</button>')
    group = f'<div role="group" aria-labelledby="tb-examples-title">{"".join(buttons)}</div>'
    return f'<h2 id="tb-examples-title">Test images</h2>{group}'


def _asset(name: str) -> str:
    return files("lightbed.web").joinpath(name).read_text(encoding="utf-8")
