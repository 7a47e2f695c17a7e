"""The TestBed page itself, made with Gradio: what is sent goes in, what the networks see is drawn by the browser."""

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData

from lightbed.errors import UserError
from lightbed.runs.log import say
from lightbed.web import answers
from lightbed.web.examples import Example
from lightbed.web.keep import keep
from lightbed.web.served import KINDS, Served
from lightbed.web.uploads import Upload, Uploads

_THUMBNAIL = 160  # pixels of the longer side
_NETWORK = {"concurrency_limit": 1, "concurrency_id": "network"}  # one image at a time; the others wait


class Picture(gr.Image):
    """Gradio's image input, which hands on the file as it was sent, and takes no address of another host."""

    is_template = True  # the browser knows it as what it is made from

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else str(payload.path)

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if url_or_file_path is not None and "://" in str(url_or_file_path):
            raise gr.Error("an address is not an image: please send the file itself", print_exception=False)
        return None if url_or_file_path is None else str(url_or_file_path)


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
        "head": '<meta name="description" content="What trained networks see in an image">',
    }


def page(
    served: Sequence[Served],
    examples: Sequence[Example],
    uploads: Uploads,
    config: Mapping[str, Any],
    address: str,
    folder: Path | None,
) -> gr.Blocks:
    """The page and its API.

    Args:
        served: the networks.
        examples: images to click on.
        uploads: where files arrive.
        config: of the command: `threshold`, `queue`.
        address: of the page, for its documentation.
        folder: where what is sent is kept, if anywhere.
    """
    first = json.dumps({"kinds": _offered(served), "threshold": config["threshold"], "panels": []})
    with gr.Blocks(title="Lightbed TestBed", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(f"<h1>TestBed</h1><p>{html.escape(_what(served))}</p>", apply_default_css=False, elem_id="tb-head")
        with gr.Row(elem_id="tb-body"):
            with gr.Column(scale=1, min_width=300):
                picture = Picture(
                    label="Image",
                    sources=["upload", "webcam", "clipboard"],
                    height=230,
                    buttons=[],
                    placeholder=f"Drop an image here\n{uploads.limits}",
                    elem_id="tb-image",
                    alt_text="The image that was sent",
                )
                strip = gr.HTML(
                    _strip(examples),
                    js_on_load=_asset("examples.js"),
                    apply_default_css=False,
                    elem_id="tb-examples",
                )
            with gr.Column(scale=3, min_width=320):
                viewer = gr.HTML(
                    first,
                    html_template=_asset("viewer.html"),
                    js_on_load=_asset("viewer.js"),
                    apply_default_css=False,
                    elem_id="tb-viewer",
                )
        with gr.Accordion("Use it from Python", open=False, elem_id="tb-api"):
            gr.Markdown(_documentation(served, uploads, address))
        _wire(picture, strip, viewer, served, examples, uploads, config, folder)
        _api(served, uploads, config, folder)
    blocks.queue(max_size=config["queue"], api_open=False)
    return blocks


def _wire(
    picture: gr.Image,
    strip: gr.HTML,
    viewer: gr.HTML,
    served: Sequence[Served],
    examples: Sequence[Example],
    uploads: Uploads,
    config: Mapping[str, Any],
    folder: Path | None,
) -> None:
    """Let the page answer to an image: the input is empty again at once, and panels come as networks finish."""

    def answer(read: Callable[[], Upload], *, kept: bool) -> Iterator[tuple[Any, str]]:
        told = {"kinds": _offered(served), "threshold": config["threshold"], "panels": []}
        try:
            upload = read()
            told |= {"image": answers.shown(upload.image), "name": upload.name}
            for one in served:
                yield None, json.dumps({**told, "busy": f"{one.title} is looking at {upload.name} ..."})
                try:
                    seen = one.ask(upload.image)
                except UserError as error:
                    told["panels"].append({"title": one.title, "kinds": one.kinds, "failed": _told(error)})
                    continue
                told["panels"].append(answers.for_page(one, seen, upload.image))
                if kept and folder is not None:
                    keep(folder, upload, answers.for_api(one, seen, upload.image, config["threshold"]))
        except UserError as error:
            told["error"] = str(error)
        except Exception as error:  # whatever one image does, the next one is answered
            told["error"] = f"this image cannot be looked at: {_told(error)}"
        yield None, json.dumps(told)

    def sent(path: str | None) -> Iterator[tuple[Any, Any]]:
        if path is None:  # the page has emptied the input itself
            yield gr.skip(), gr.skip()
            return
        yield from answer(lambda: uploads.read(path), kept=True)

    def clicked(event: gr.EventData) -> Iterator[tuple[Any, str]]:
        index = event._data.get("index") if isinstance(event._data, dict) else None
        known = isinstance(index, int) and 0 <= index < len(examples)
        chosen = examples[index] if known and isinstance(index, int) else None

        def read() -> Upload:
            if chosen is None:
                raise UserError("there is no such example")
            return Upload(chosen.name, b"", chosen.image)

        yield from answer(read, kept=False)

    options: Any = {"outputs": [picture, viewer], "show_progress": "hidden", "api_visibility": "private", **_NETWORK}
    picture.input(sent, [picture], **options)
    strip.click(clicked, None, **options)


def _api(served: Sequence[Served], uploads: Uploads, config: Mapping[str, Any], folder: Path | None) -> None:
    """The endpoints `/predict` and `/runs`."""
    by_name = {one.name: one for one in served}

    def predict(image: str | None, run: str, threshold: float) -> dict[str, Any]:
        """What a run sees in an image, at the image's own size."""
        try:
            if image is None:
                raise UserError("image is missing: give handle_file(PATH)")
            upload = uploads.read(image)
            if run not in by_name:
                raise UserError(f"run={run} is not served: there is {', '.join(by_name)}")
            if not 0 <= threshold <= 1:
                raise UserError(f"threshold={threshold} must lie in 0..1")
            one = by_name[run]
            told = answers.for_api(one, one.ask(upload.image), upload.image, threshold)
            if folder is not None:
                keep(folder, upload, told)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            raise gr.Error(f"this image cannot be looked at: {_told(error)}", print_exception=False) from error
        return told

    def runs() -> list[dict[str, Any]]:
        """The runs that are served: their names, what they show, and their classes."""
        return [
            {"run": one.name, "title": one.title, "kinds": one.kinds, "classes": one.classes} for one in served
        ]  # fmt: skip

    with gr.Row(visible=False):
        image = Picture(label="image", type="filepath")
        run = gr.Textbox(served[0].name, label="run")
        threshold = gr.Number(config["threshold"], label="threshold")
        button, told = gr.Button("predict"), gr.JSON(label="what the run sees")
    described = "What a run sees in an image, at the image's own size; pixels have no threshold."
    options: Any = {"api_name": "predict", "api_description": described, "show_progress": "hidden", **_NETWORK}
    button.click(predict, [image, run, threshold], told, **options)
    gr.api(runs, api_name="runs", queue=False)


# -- what is written on it ---------------------------------------------------------------------------------------------


def _offered(served: Sequence[Served]) -> list[list[str]]:
    """Name and title of each tab that some network has something for."""
    return [[kind, title] for kind, title in KINDS.items() if any(kind in one.kinds for one in served)]


def _what(served: Sequence[Served]) -> str:
    names = " and ".join(one.title for one in served)
    return f"What {names} {'sees' if len(served) == 1 else 'see'} in an image"


def _strip(examples: Sequence[Example]) -> str:
    """The examples as buttons; each says which one it is."""
    if not examples:
        return ""
    buttons = [
        f'<button type="button" data-index="{i}" aria-label="{html.escape(one.name)}" title="{html.escape(one.name)}">'
        f'<img src="{answers.thumbnail(one.image, _THUMBNAIL)}" alt=""></button>'
        for i, one in enumerate(examples)
    ]
    return f'<h2 id="tb-examples-title">Test images</h2><div role="group" aria-labelledby="tb-examples-title">{"".join(buttons)}</div>'


def _documentation(served: Sequence[Served], uploads: Uploads, address: str) -> str:
    """How to ask from Python, with the names of these runs."""
    names = ", ".join(f"`{one.name}`" for one in served)
    return f"""```python
from gradio_client import Client, handle_file

client = Client("{address}")
told = client.predict(handle_file("photo.jpg"), "{served[0].name}", 0.9, api_name="/predict")
print(told)
print(client.predict(api_name="/runs"))  # names, kinds and classes of what is served
```

`/predict` takes an image file ({uploads.limits}), the name of a run ({names}) and the least score that is told. It gives
`run`, `seconds` of the network, `height` and `width` of the image, and, by what the run does: `label`, `score` and
`scores` of each class, with `box` where the object is located; `objects`, each with `label`, `score`, `box` (x1, y1,
x2, y2 in pixels) and, with masks, `segmentation` (COCO's run-length code); or `shares` of each class and `mask`, a PNG
whose values are the classes, as a `data:` address. Wrong input raises `gradio_client.exceptions.AppError` with a
message."""


def _asset(name: str) -> str:
    return files("lightbed.web").joinpath(name).read_text(encoding="utf-8")


def _told(error: Exception) -> str:
    """An error in one line, for strangers; its traceback is the server's."""
    say(f"the page failed on an image: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
