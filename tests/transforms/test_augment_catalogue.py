"""Every option of conf/augment composes, builds and runs; those of torchvision through a data module."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from lightbed import folders
from lightbed.build import make_augment, make_data, resolve
from lightbed.cli import conf_dir
from lightbed.data.order import Keys
from lightbed.data.source import KeyedReader
from lightbed.errors import UserError

OPTIONS = sorted(path.stem for path in (conf_dir() / "augment").glob("*.yaml"))
JITTER = "{_target_: torchvision.transforms.v2.ColorJitter, brightness: 0.5}"
SCALED = "{_target_: torchvision.transforms.v2.ToDtype, dtype: {_target_: hydra.utils.get_object, path: torch.float32}}"


def config(*overrides):
    folders.register([])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return resolve(compose("train", list(overrides)))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 48)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_option_runs_on_a_batch(option, shape, dtype):
    augment = make_augment(config(f"augment={option}"))
    if augment is None:
        assert option in ("none", "torchvision_v2")
        return
    images = torch.randint(0, 256, (16, *shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    out, target = augment(images, {"index": torch.arange(16), "label": torch.arange(16)}, epoch=0)
    assert out.shape == images.shape
    assert out.dtype == (torch.float32 if augment.computes else dtype)
    assert out.min() >= 0
    assert out.max() <= 255 + 1e-3  # bilinear weights sum to 1 but for the last bit
    assert not torch.equal(out, images)
    assert torch.equal(target["label"], torch.arange(16))


@pytest.mark.parametrize("option", OPTIONS)
def test_option_says_what_it_is_and_comments_its_keys(option):
    lines = (Path(conf_dir()) / "augment" / f"{option}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    keys = [line for line in lines[1:] if ": " in line and "_target_" not in line and not line.startswith("defaults")]
    assert [line for line in keys if "#" not in line] == []


def test_a_step_is_changed_or_left_out_by_name():
    assert make_augment(config("augment=flip_crop", "augment.batch.flip.p=0.25")).steps[0].p == 0.25
    assert len(make_augment(config("augment=flip_crop", "augment.batch.flip=null")).steps) == 1
    with pytest.raises(UserError, match="Affine: fill=wrap is not known"):
        make_augment(config("augment=keras_affine", "augment.batch.affine.fill=wrap"))


def reader(*overrides):
    data = make_data(config("data=digits", "data.image_size=16", *overrides))
    return KeyedReader(data.splits["train"], 0, data.transform, data.collate)


def test_torchvision_runs_in_the_loader_keyed_by_sample():
    augmented, plain = reader("augment=torchvision_v2"), reader()
    keys = torch.arange(40)
    images, target = augmented.__getitems__(Keys(0, keys))
    before, before_target = plain.__getitems__(Keys(0, keys))
    assert images.dtype == torch.uint8
    assert type(images) is torch.Tensor
    assert images.shape == before.shape
    assert torch.equal(target["label"], before_target["label"])  # a plain tensor, but no image
    assert (images != before).flatten(1).any(1).float().mean() > 0.9
    torch.rand(7)  # the state of the generator makes no difference, nor do the other samples of the batch
    alone = augmented.__getitems__(Keys(0, keys[[17]]))[0][0]
    assert torch.equal(alone, images[17])
    assert not torch.equal(augmented.__getitems__(Keys(1, keys))[0], images)


def test_labels_of_several_values_are_no_images():
    """v2 takes the first plain tensor for an image where it finds no other; here it finds the image."""
    augmented = reader("augment=torchvision_v2", f"augment.sample.transforms=[{JITTER}]")
    image, label = torch.full((1, 4, 4), 100, dtype=torch.uint8), torch.full((3, 4, 4), 100, dtype=torch.uint8)
    augmented.source = [(image, {"label": label})]
    images, target = augmented.__getitems__(Keys(0, torch.tensor([0])))
    assert not torch.equal(images[0], image)
    assert torch.equal(target["label"][0], label)


def test_scaling_in_the_loader_is_told():
    scaled = reader("augment=torchvision_v2", f"augment.sample.transforms=[{SCALED}]")
    with pytest.raises(UserError, match=r"augment\.sample gives float32 images"):
        scaled.__getitems__(Keys(0, torch.tensor([0])))
