"""Detection: a step of Faster R-CNN and of Mask R-CNN."""

from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import lightning.pytorch as L
import torch
from torch import nn

from benchmarks.paired import Row, Setting
from benchmarks.segmentation import Turns
from lightbed.data.digit_scenes import DigitScenes
from lightbed.models.rcnn import FasterRCNN, MaskRCNN
from lightbed.tasks import Detector

BATCH, STEPS, EPOCHS = 8, 10, 8
OPTIONS = {
    "levels": [1, 2, 3],
    "pyramid_channels": 64,
    "anchor_sizes": [[12], [18], [26], [36]],
    "representation_size": 128,
    "rpn_post_nms_top_n_train": 200,
    "box_batch_size_per_image": 64,
}


def step(setting: Setting) -> list[Row]:
    """An epoch of each network on digit scenes through Lightbed, against a hand-written loop on the same batches."""
    torch.set_num_threads(setting.threads)
    masks = {"mask_layers": [64, 64], "mask_dim_reduced": 64}
    networks: dict[str, Callable[[], nn.Module]] = {
        "Faster R-CNN": lambda: FasterRCNN(10, **OPTIONS),
        "Mask R-CNN": lambda: MaskRCNN(10, **OPTIONS, **masks),
    }
    return [measure(name, network) for name, network in networks.items()]


def measure(name: str, make: Callable[[], nn.Module]) -> Row:
    """One network's row."""
    targets = ["boxes", "labels", *(["masks"] if name.startswith("Mask") else [])]
    data = DigitScenes(images={"train": BATCH * STEPS, "val": 1, "test": 1}, targets=targets, batch_size=BATCH)
    data.setup()
    torch.manual_seed(0)
    ours = make()
    torch.manual_seed(0)
    turns = Turns(by_hand(data, make()))
    task = Detector(ours, 10, preprocess=data.preprocess, optimizer=partial(torch.optim.Adam, lr=1e-4))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[turns],
        limit_val_batches=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **quiet,
    )
    trainer.fit(task, datamodule=data)
    ratio = median(ours / theirs for ours, theirs in list(zip(turns.ours, turns.theirs, strict=True))[1:])
    each = [1000 * median(times[1:]) / STEPS for times in (turns.ours, turns.theirs)]
    measured = f"{ratio:.3f} x: {each[0]:.1f} to {each[1]:.1f} ms a step"
    what = f"{name}, {BATCH} images 64x64: a step of Lightbed to one of a hand-written loop"
    return Row(what, measured, "<= 1.03 x", ratio <= 1.03)


def by_hand(data: DigitScenes, network: nn.Module) -> Callable[[], float]:
    """Seconds of an epoch of the plainest loop: tensors in memory, normalised, the losses summed."""
    samples = [data.splits["train"][i] for i in range(BATCH * STEPS)]
    images = [image for image, _ in samples]
    targets = [
        {name: torch.as_tensor(value) + (name == "labels") for name, value in target.items()} for _, target in samples
    ]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    network.train()

    def epoch() -> float:
        start = perf_counter()
        for chosen in torch.randperm(len(images)).split(BATCH):
            order = chosen.tolist()
            batch = [(images[i].float() / 255 - 0.5) / 0.5 for i in order]
            losses = network(batch, [targets[i] for i in order])
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return perf_counter() - start

    return epoch
