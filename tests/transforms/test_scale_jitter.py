"""Scale jitter, and that masks stay with their images through every batched augmentation that moves pixels."""

import pytest
import torch

from lightbed.errors import UserError
from lightbed.transforms.affine import Affine
from lightbed.transforms.augment import Augment, Augmentation
from lightbed.transforms.crop import RandomCrop, RandomResizedCrop
from lightbed.transforms.flip import HorizontalFlip, VerticalFlip
from lightbed.transforms.scale import ScaleJitter

TONES = torch.tensor([20, 90, 160, 230])


def scenes(count: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (N, 3, 48, 64) of patches, and masks uint8 (N, 48, 64) that their grey tells."""
    torch.manual_seed(0)
    masks = torch.randint(4, (count, 6, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return TONES[masks][:, None].expand(-1, 3, -1, -1).to(torch.uint8).contiguous(), masks.to(torch.uint8)


@pytest.mark.parametrize(
    "step",
    [
        HorizontalFlip(),
        VerticalFlip(),
        RandomCrop(6),
        RandomResizedCrop((0.3, 1.0)),
        Affine(rotation=25, shift=0.1, zoom=0.2, flip=0.5, fill="constant"),
        ScaleJitter((0.5, 2.0)),
    ],
    ids=lambda step: type(step).__name__,
)
def test_masks_stay_with_their_images(step: Augmentation) -> None:
    images, masks = scenes()
    index = torch.arange(len(images))
    moved, target = Augment([step], seed=3)(images, {"mask": masks, "index": index}, 0)
    mask = target["mask"].long()
    assert moved.shape == images.shape
    assert mask.shape == masks.shape
    assert not torch.equal(mask, masks.long())
    assert set(mask.unique().tolist()) <= {0, 1, 2, 3, 255}
    known = mask != 255
    nearest = (moved[:, 0].float()[..., None] - TONES).abs().argmin(-1)
    # pixels between two patches are mixed; all others say their class
    assert float((nearest == mask)[known].float().mean()) > 0.9
    assert float((moved[:, 0].float()[~known]).mean()) < 25 if (~known).any() else True


def test_scale_jitter_enlarges_a_part_or_reduces_the_whole() -> None:
    jitter = ScaleJitter((0.5, 2.0))
    images, masks = scenes(2)
    # first image: factor 2, the window in the upper left corner; second: factor 0.5, the image there
    u = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    moved, target = jitter(images, {"mask": masks}, u)
    part = masks[0, :24, :32].repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(target["mask"][0], part.long())
    assert moved.dtype == torch.float32
    void = target["mask"][1] == 255
    assert float((~void).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert void[-1, -1]
    assert not void[0, 0]


def test_scale_jitter_of_one_changes_nothing() -> None:
    images, masks = scenes(3)
    moved, target = ScaleJitter((1, 1))(images, {"mask": masks}, torch.rand(3, 3))
    torch.testing.assert_close(moved, images.float(), atol=1e-2, rtol=0)
    assert torch.equal(target["mask"], masks.long())


def test_faults_are_told() -> None:
    with pytest.raises(UserError, match="must be"):
        ScaleJitter((2, 1))
