"""Brightness, contrast and saturation against torchvision's."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from lightbed.errors import UserError
from lightbed.transforms.colour import ColourJitter


def soft(channels=3):
    """Colours of the middle range, so that nothing is cut off on the way."""
    return torch.rand(4, channels, 9, 11, generator=torch.Generator().manual_seed(0)) * 60 + 90


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "names", [("brightness",), ("contrast",), ("saturation",), ("brightness", "contrast", "saturation")]
)
def test_equals_torchvision(names, channels):
    before, u = soft(channels), torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    out, _ = ColourJitter(**dict.fromkeys(names, 0.3))(before.clone(), {}, u)
    for i, image in enumerate(before / 255):
        expected = image
        for slot, name in enumerate(("brightness", "contrast", "saturation")):
            if name in names:
                expected = getattr(F, f"adjust_{name}")(expected, 0.7 + 0.6 * u[i, slot].item())
        torch.testing.assert_close(out[i] / 255, expected, atol=2e-4, rtol=0)  # torchvision's grey weights: 4 digits


def test_stays_within_range_and_never_inverts():
    u = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    before = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8)
    out, _ = ColourJitter(3.0, 3.0, 3.0)(before, {}, u)
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 255
    dark, _ = ColourJitter(brightness=3.0)(before.float(), {}, torch.zeros(50, 3))
    assert dark.eq(0).all()


def test_negative_is_told():
    with pytest.raises(UserError, match="contrast=-1 must not be negative"):
        ColourJitter(contrast=-1)
