"""The page's API, for programs: `/predict` and `/runs`."""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api

from lightbed.errors import UserError
from lightbed.runs.log import say
from lightbed.web import answers
from lightbed.web.keep import keep
from lightbed.web.site import Site
from lightbed.web.uploads import Uploads

NETWORK: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "network"}
"""One image at a time, from whomever; the others wait."""


def picture_input(label: str, **options: Any) -> gr.Image:
    """Gradio's image input, which hands on the file as it was sent, and takes no address of another host.

    Gradio writes a file beside the source of each class made from one of its own, so this is none.
    """
    made: Any = gr.Image(label=label, type="filepath", **options)

    async def arrived(file: str | Path | None) -> str | None:
        if file is not None and "://" in str(file):
            raise gr.Error("an address is not an image: please send the file itself", print_exception=False)
        return None if file is None else str(file)

    made.async_move_resource_to_block_cache = arrived
    made.preprocess = lambda payload: None if payload is None else payload.path
    return made  # type: ignore[no-any-return]


def endpoints(site: Site, uploads: Uploads) -> None:
    """Add the endpoints to the page that is being made.

    Args:
        site: what is served.
        uploads: where files arrive.
    """

    def predict(image: str | None, run: str, threshold: float) -> dict[str, Any]:
        try:
            return answered(site, uploads, image, run, threshold)
        except Exception as error:  # whatever one image does, the next one is answered
            raise gr.Error(told_of(error), print_exception=False) from error

    def runs() -> list[dict[str, Any]]:
        """The runs that are served: their names, what they show, and their classes."""
        return [
            {"run": one.name, "title": one.title, "kinds": one.kinds, "classes": one.classes} for one in site.served
        ]

    with gr.Row(visible=False):
        image = picture_input("image")
        run = gr.Textbox(site.served[0].name, label="run")
        threshold = gr.Number(site.threshold, label="threshold")
        button, found = gr.Button("predict"), gr.JSON(label="what the run sees")
    described = "What a run sees in an image, at the image's own size; pixels have no threshold."
    options: dict[str, Any] = {"api_name": "predict", "api_description": described, **NETWORK}
    button.click(predict, [image, run, threshold], found, **options)
    api(runs, api_name="runs", queue=False)


def answered(site: Site, uploads: Uploads, image: str | None, run: str, threshold: Any) -> dict[str, Any]:
    """What `/predict` gives: see `answers.for_api`.

    Raises:
        UserError: the image, the run or the threshold is wrong.
    """
    if image is None:
        raise UserError("image is missing: give handle_file(PATH)")
    upload = uploads.read(image)
    one = next((one for one in site.served if one.name == run), None)
    if one is None:
        raise UserError(f"run={run} is not served: there is {', '.join(one.name for one in site.served)}")
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise UserError(f"threshold={threshold} must lie in 0..1")
    told = answers.for_api(one, one.ask(upload.image), upload.image, threshold)
    if site.folder is not None:
        keep(site.folder, upload, told)
    return told


def documentation(site: Site, address: str) -> str:
    """How to ask from Python, with the names of these runs, as Markdown."""
    names = ", ".join(f"`{one.name}`" for one in site.served)
    return f"""```python
from gradio_client import Client, handle_file

client = Client("{address}")
told = client.predict(handle_file("photo.jpg"), "{site.served[0].name}", 0.9, api_name="/predict")
print(told)
print(client.predict(api_name="/runs"))  # names, kinds and classes of what is served
```

`/predict` takes an image file ({site.limits}), the name of a run ({names}) and the least score that is told. It gives
`run`, `seconds` of the network, `height` and `width` of the image, and, by what the run does:

- `label`, `score`, and `scores` of all classes; with `box` where the object is located
- `objects`, each with `label`, `score`, `box` (x1, y1, x2, y2 in pixels) and, with masks, `segmentation` (COCO's
  run-length code)
- `shares` of the classes, and `mask`: a PNG whose values are the classes, as a `data:` address

Wrong input raises `gradio_client.exceptions.AppError` with a message."""


def told_of(error: Exception) -> str:
    """An error in one line, for strangers; what is no mistake of theirs is told on the terminal, too."""
    if isinstance(error, UserError):
        return str(error)
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    say(f"the page failed on an image: {type(error).__name__}: {reason}")
    return f"this image cannot be looked at: {type(error).__name__}: {reason}"
