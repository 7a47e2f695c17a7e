"""`lightbed export`: a trained model as one file that needs no Lightbed, and a record that it predicts the same."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from lightbed import build
from lightbed.errors import RunError, UserError, one_of
from lightbed.programs import Outputs, Program, difference, made_up, program_of
from lightbed.runs.load import Loaded, load_run
from lightbed.runs.log import say
from lightbed.runs.record import Record, write_text
from lightbed.runs.results import near
from lightbed.runs.settings import check_counts
from lightbed.transforms.preprocess import Preprocess

_TRACED = 2  # images that the program is made from: with one, torch would take every batch to be of one
_COUNTS = (1, 3)  # images of the batches, or of the single images, that it is compared on
_MOST = 1e-3  # difference of a probability, or share of pixels: ONNX Runtime's kernels sum in another order


def export(cfg: DictConfig) -> None:
    """Write model.onnx or model.pt2 and export.json.

    Raises:
        UserError: the run, the size or the format is wrong, or the network cannot be exported.
        RunError: the program does not predict what the checkpoint does.
    """
    config = build.resolve(cfg)
    one_of(config["format"], ("onnx", "torch"), "format")
    check_counts(config, "threads")
    if config["format"] == "onnx":
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"format=onnx needs {', '.join(missing)}: pip install 'lightbed[export]', or format=torch")
    loaded = load_run(config["run"], trust=config["trust"])
    build.set_threads(config["threads"] or loaded.config["threads"])
    program = program_of(loaded.task).eval()
    if config["format"] == "torch" and not program.batched:
        raise UserError("format=torch is not for detectors, in which sizes depend on what is seen: use format=onnx")
    size = input_size(config["size"], loaded)
    with Record.of_job(config, "export", run=str(loaded.checkpoint)) as record:
        write_program(program, size, loaded, config["format"], record.folder)


def write_program(program: Program, size: tuple[int, int], loaded: Loaded, kind: str, folder: Path) -> None:
    """Write the program and its description into the folder, and print what they are.

    Raises:
        UserError: the network cannot be exported.
        RunError: the program does not predict what the checkpoint does.
    """
    file = folder / ("model.onnx" if kind == "onnx" else "model.pt2")
    shape = (program.preprocess.channels, *size)
    example = made_up((_TRACED, *shape) if program.batched else shape, 0)
    say(f"{loaded.checkpoint} as {kind}")
    with torch.no_grad(), _quiet():
        try:
            (_write_onnx if kind == "onnx" else _write_torch)(program, example, file)
            run = (_onnx if kind == "onnx" else _torch)(file)
            worst = _compare(program, run, shape)
        except (RunError, UserError, OSError):
            raise
        except Exception as error:  # torch has many kinds
            file.unlink(missing_ok=True)
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"run={loaded.checkpoint}: its network cannot be exported as {kind}: {first}") from error
    if not worst <= _MOST:
        file.unlink()
        raise RunError(
            f"the exported program differs from the checkpoint by {worst:.2g} on images that were made up for it: its "
            "network takes steps that depend on what it sees, or on chance, and cannot be exported"
        )
    told = describe(program, shape, loaded, worst)
    write_text(folder / "export.json", json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    say(f"  {near(file)}  {file.stat().st_size / 1e6:.1f} MB, as the checkpoint to {worst:.1g}")
    say(f"  {near(folder / 'export.json')}")


def describe(program: Program, shape: tuple[int, ...], loaded: Loaded, worst: float) -> dict[str, Any]:
    """export.json: what one needs to know to use the program."""
    preprocess = loaded.task.preprocess or Preprocess()
    kind = type(loaded.task).__name__.lower()
    return {
        "task": kind,
        "classes": loaded.task.classes,
        "input": {
            "name": _input(program),
            "dtype": "uint8",
            "shape": ["N", *shape] if program.batched else list(shape),
            "values": "grey, 0..255" if shape[0] == 1 else "RGB, 0..255",
            "resize": None if preprocess.size is None else preprocess.resize,
        },
        "outputs": list(program.names),
        "checkpoint": str(loaded.checkpoint),
        "torch": torch.__version__,
        "compared": {"images": sum(_COUNTS), "largest_difference": worst},
    }


def input_size(given: Any, loaded: Loaded) -> tuple[int, int]:
    """Height and width of the images that the program takes.

    Raises:
        UserError: the run tells none, and none is given, or no such size.
    """
    preprocess = loaded.task.preprocess or Preprocess()
    own = _given(given) if given is not None else preprocess.size
    if own is None:
        raise UserError("the run took images of any size, so give size=[height,width] of those to come")
    return own


def _given(size: Any) -> tuple[int, int] | None:
    try:
        return Preprocess(size=size).size
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"size={size} must be one positive number, or two: [height, width]") from error


# -- formats -----------------------------------------------------------------------------------------------------------


def _write_torch(program: Program, example: Tensor, file: Path) -> None:
    exported = torch.export.export(program, (example,), dynamic_shapes=_any_number(program), strict=False)
    torch.export.save(exported, file)


def _torch(file: Path) -> Callable[[Tensor], Outputs]:
    module = torch.export.load(file).module()
    return lambda images: tuple(module(images))


def _write_onnx(program: Program, example: Tensor, file: Path) -> None:
    named: dict[str, Any] = {"input_names": [_input(program)], "output_names": list(program.names)}
    if program.batched:
        shapes = _any_number(program)
        torch.onnx.export(program, (example,), file, dynamo=True, dynamic_shapes=shapes, external_data=False, **named)
        return
    # torchvision's detectors are made for tracing, in which sizes may depend on what is seen
    axes = {name: {0: "objects"} for name in program.names}
    torch.onnx.export(program, (example,), str(file), dynamo=False, opset_version=17, dynamic_axes=axes, **named)


def _onnx(file: Path) -> Callable[[Tensor], Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of shapes that depend on what is seen
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: tuple(torch.from_numpy(value) for value in session.run(None, {name: images.numpy()}))


def _input(program: Program) -> str:
    return "images" if program.batched else "image"


def _any_number(program: Program) -> Any:
    return ({0: torch.export.Dim("N", min=1, max=65535)},) if program.batched else None


def _compare(program: Program, run: Callable[[Tensor], Outputs], shape: tuple[int, ...]) -> float:
    """The largest difference on images that the program was not made from."""
    worst = 0.0
    for seed, count in enumerate(_COUNTS, 1):
        images = made_up((count, *shape) if program.batched else shape, seed)
        worst = max(worst, difference(program, program(images), run(images)))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and reports that exporters print for their own developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
