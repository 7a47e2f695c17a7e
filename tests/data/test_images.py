"""Every kind of image file, and every way in which one can be broken."""

import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lightbed.data.images import check_image, is_image, read_image
from lightbed.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def save(path, image, **options):
    Image.fromarray(image).save(path, **options) if isinstance(image, np.ndarray) else image.save(path, **options)
    return path


def hwc(tensor):
    return tensor.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_rgb_is_read_to_the_bit(tmp_path, suffix):
    image = read_image(save(tmp_path / f"a.{suffix}", RGB, **({"lossless": True} if suffix == "webp" else {})))
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(hwc(image), RGB)


def test_grey_becomes_three_equal_channels_and_back(tmp_path):
    path = save(tmp_path / "a.png", GREY)
    assert np.array_equal(hwc(read_image(path)), np.stack([GREY] * 3, -1))
    assert np.array_equal(read_image(path, 1)[0].numpy(), GREY)


def test_rgb_to_grey_weighs_colours_as_itu_601(tmp_path):
    grey = read_image(save(tmp_path / "a.png", RGB), 1)[0].numpy()
    assert np.abs(grey - RGB @ [0.299, 0.587, 0.114]).max() <= 1


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.array([[0, 255, 128, 0, 255, 64, 0]] * 5, dtype=np.uint8)
    found = hwc(read_image(save(tmp_path / "a.png", np.dstack([RGB, alpha])))).astype(int)
    share = alpha[..., None] / 255
    assert np.abs(found - (RGB * share + 255 * (1 - share))).max() <= 1
    assert (found[:, 0] == 255).all()
    assert np.array_equal(found[:, 1], RGB[:, 1])


def test_grey_with_alpha(tmp_path):
    alpha = np.where(np.arange(7) < 3, 0, 255).astype(np.uint8)[None].repeat(5, 0)
    image = read_image(save(tmp_path / "a.png", Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])), 1)
    assert (image[0, :, :3] == 255).all()
    assert np.array_equal(image[0, :, 3:].numpy(), GREY[:, 3:])


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_with_a_transparent_colour(tmp_path, suffix):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    found = hwc(read_image(save(tmp_path / f"a.{suffix}", image, transparency=1)))
    assert found.tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert hwc(read_image(save(tmp_path / f"b.{suffix}", image))).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (hwc(read_image(tmp_path / "a.gif")) == [255, 0, 0]).all()


def test_one_bit(tmp_path):
    bits = np.array([[True, False, True]])
    assert read_image(save(tmp_path / "a.png", Image.fromarray(bits)), 1).tolist() == [[[255, 0, 255]]]


def test_cmyk(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path)  # no cyan, all magenta and yellow: red
    assert hwc(read_image(path))[4, 4].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    wide = np.array([[0, 257, 32768, 65535, 1000]], dtype=np.uint16)
    found = read_image(save(tmp_path / f"a.{suffix}", wide))
    assert found.shape == (3, 1, 5)
    assert found[0].tolist() == [[0, 1, 128, 255, 4]]


def test_16_bit_rgb(tmp_path):
    """Pillow cannot write it, so the file is made by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + np.array([65535, 0, 32768, 256, 512, 1024], dtype=">u2").tobytes()
    head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert hwc(read_image(tmp_path / "a.png")).tolist() == [[[255, 0, 128], [1, 2, 4]]]


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_floats_in_three_ranges(tmp_path, top):
    pixels = np.array([[0, 0.5, 1]], dtype=np.float32) * top
    assert read_image(save(tmp_path / "a.tif", pixels), 1).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("pixel", [-1.0, 1e6, float("nan")])
def test_floats_of_no_known_range_are_refused(tmp_path, pixel):
    path = save(tmp_path / "height.tif", np.array([[0, pixel]], dtype=np.float32))
    for read in (read_image, check_image):
        with pytest.raises(UserError, match=r"height\.tif cannot be read: its pixels lie in .*; convert it"):
            read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / "a.png", RGB, exif=exif)
    turns = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(RGB),
    }
    assert np.array_equal(hwc(read_image(tmp_path / "a.png")), turns[orientation])
    assert check_image(tmp_path / "a.png") == turns[orientation].shape[:2]


def photo(path, size=(64, 80)):
    rng = np.random.default_rng(1)
    return save(path, rng.integers(0, 256, (*size, 3), dtype=np.uint8), quality=90)


@pytest.mark.parametrize("read", [read_image, check_image])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
class TestBroken:
    def test_truncated(self, tmp_path, suffix, read):
        path = photo(tmp_path / f"a.{suffix}")
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(UserError, match=rf"a\.{suffix} cannot be read: "):
            read(path)

    def test_empty(self, tmp_path, suffix, read):
        (tmp_path / f"a.{suffix}").touch()
        with pytest.raises(UserError, match=rf"a\.{suffix} is empty$"):
            read(tmp_path / f"a.{suffix}")

    def test_no_image(self, tmp_path, suffix, read):
        (tmp_path / f"a.{suffix}").write_text("<html>not found</html>")
        with pytest.raises(UserError, match=rf"a\.{suffix} is no image that can be read$"):
            read(tmp_path / f"a.{suffix}")

    def test_missing_or_folder(self, tmp_path, suffix, read):
        with pytest.raises(UserError, match=rf"a\.{suffix} does not exist$"):
            read(tmp_path / f"a.{suffix}")
        (tmp_path / f"a.{suffix}").mkdir()
        with pytest.raises(UserError, match=rf"a\.{suffix} cannot be read: Is a directory$"):
            read(tmp_path / f"a.{suffix}")


def test_a_decompression_bomb_is_refused(tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (16_000, 12_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"bomb\.png claims more than 178,956,970 pixels"):
        read_image(path)


@given(st.integers(0, 400), st.integers(0, 255))
def test_one_wrong_byte_never_ends_in_another_error(tmp_path_factory, place, value):
    """A damaged file is read all the same, or told by its path."""
    path = photo(tmp_path_factory.getbasetemp() / "bytes.jpg", (8, 8))
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    told = ""
    try:
        read_image(path)
    except UserError as error:
        told = str(error)
    assert not told or "bytes.jpg" in told
    assert "\n" not in told


@pytest.mark.parametrize(("name", "known"), [
    ("a.JPG", True), ("a.Jpeg", True), ("b.png", True), ("c.TIFF", True), ("c.tif", True), ("d.webp", True),
    ("e.gif", True), ("f.bmp", True), (".a.jpg", False), ("._a.jpg", False), ("a.txt", False), ("jpg", False),
])  # fmt: skip
def test_what_counts_as_an_image(name, known):
    assert is_image(name) is known
