"""What strangers send: what is read, what is refused, and that nothing stays."""

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lightbed.data.images import read_image
from lightbed.errors import UserError
from lightbed.web.uploads import Limits, Uploads, read

LIMITS = Limits(2, 4)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pictures() -> dict[str, Image.Image]:
    """One of each kind that people send, 30 wide and 20 high, of a ramp from dark to light."""
    ramp = np.tile(np.linspace(0, 255, 30).astype(np.uint8), (20, 1))
    colour = np.stack([ramp, ramp[:, ::-1], ramp // 2], 2)
    clear = np.dstack([colour, np.where(ramp < 128, 0, 255).astype(np.uint8)])
    return {
        "grey.png": Image.fromarray(ramp),
        "grey.jpg": Image.fromarray(ramp),
        "colour.webp": Image.fromarray(colour),
        "colour.bmp": Image.fromarray(colour),
        "palette.gif": Image.fromarray(colour).quantize(16),
        "clear.png": Image.fromarray(clear),
        "grey_alpha.png": Image.fromarray(clear).convert("LA"),
        "print.jpg": Image.fromarray(colour).convert("CMYK"),
        "print.tif": Image.fromarray(colour).convert("CMYK"),
        "deep.png": Image.fromarray(ramp.astype(np.uint16) * 257),
        "deep.tif": Image.fromarray(ramp.astype(np.uint16) * 257),
        "ink.png": Image.fromarray(ramp > 128),
    }


@pytest.mark.parametrize("name", pictures())
def test_every_kind_of_image_is_read_as_the_files_of_a_data_set_are(name, tmp_path):
    pictures()[name].save(tmp_path / name)
    found = read(tmp_path / name, LIMITS)
    assert found.name == name
    assert found.content == (tmp_path / name).read_bytes()
    assert found.image.shape == (3, 20, 30)
    assert torch.equal(found.image, read_image(tmp_path / name))
    if name.startswith("deep"):
        assert found.image[0, 0].tolist() == np.linspace(0, 255, 30).astype(np.uint8).tolist(), "scaled, not clipped"
    if name == "clear.png":
        assert (found.image[:, :, 0] == 255).all(), "what is clear is white"
    if name.startswith("print"):
        assert found.image[0, 0, -1] > 200 > found.image[1, 0, -1], "red at the right, as it was before printing"


def test_a_turned_photograph_stands_upright(tmp_path):
    image = Image.fromarray(np.tile(np.linspace(0, 255, 30).astype(np.uint8), (20, 1)))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    found = read(tmp_path / "turned.png", LIMITS).image
    assert found.shape == (3, 30, 20)
    assert found[0, 0, 0] < found[0, -1, 0]


def refused(file: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(UserError) as caught:
        read(file, limits)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(file.parent) not in message, "a stranger need not know where files lie"
    assert file.name in message
    return message


def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "big.png").write_bytes(bytes(3 * 2**20))
    assert "3.0 MB; the page takes up to 2 MB" in refused(tmp_path / "big.png")
    begun = time.process_time()
    for width, height, told in ((3000, 2000, "claims 3,000 x 2,000 = 6 megapixels"), (60000, 60000, "hundreds of")):
        (tmp_path / "bomb.png").write_bytes(bomb(width, height))
        assert told in refused(tmp_path / "bomb.png")
    (tmp_path / "bomb.png").write_bytes(bomb(12000, 10000))  # over the size at which Pillow warns
    assert "120 megapixels; the page takes up to 4: please scale it down" in refused(tmp_path / "bomb.png")
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("notes.jpg", b"hello", "is no image that the page reads: it takes JPEG, PNG"),
        ("empty.png", b"", "is empty"),
        ("page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image that the page reads"),
        ("drawing.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image that the page reads"),
        ("header.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "header.png"),
    ],
)
def test_what_is_no_image_is_refused_whatever_it_is_called(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert told in refused(tmp_path / name)


@pytest.mark.parametrize("name", ["grey.jpg", "clear.png", "deep.tif", "colour.webp", "colour.bmp"])
def test_truncated_files_are_refused(name, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert("L" if name in ("grey.jpg", "deep.tif") else "RGB")
    picture.save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    refused(tmp_path / name)


def test_the_content_counts_and_not_the_name(tmp_path):
    pictures()["colour.bmp"].save(tmp_path / "x", format="PNG")
    assert read(tmp_path / "x", LIMITS).image.shape == (3, 20, 30)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow tells of damage in the headers
@given(
    kind=st.sampled_from(["grey.jpg", "clear.png", "deep.tif", "colour.webp", "palette.gif"]),
    place=st.floats(0, 1),
    noise=st.binary(min_size=1, max_size=40),
)
def test_damaged_files_are_read_or_refused_in_one_line(kind, place, noise, tmp_path):
    file = tmp_path / kind
    pictures()[kind].save(file)
    whole = file.read_bytes()
    at = int(place * len(whole))
    file.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    try:
        found = [str(read(file, LIMITS).image.shape[0])]
    except UserError as error:
        found = str(error).splitlines()
    assert len(found) == 1


def test_a_file_is_gone_once_it_is_read_or_refused():
    uploads = Uploads(LIMITS)
    try:
        places = [uploads.new() for _ in range(2)]
        assert len(set(places)) == 2
        for place, name in zip(places, ("grey.png", "notes.png"), strict=True):
            (place / "digest").mkdir(parents=True)
            file = place / "digest" / name
            pictures()["grey.png"].save(file) if name == "grey.png" else file.write_bytes(b"hello")
        assert uploads.read(places[0] / "digest" / "grey.png").image.shape == (3, 20, 30)
        with pytest.raises(UserError, match=r"notes\.png is no image"):
            uploads.read(places[1] / "digest" / "notes.png")
        assert not list(uploads.folder.iterdir())
        with pytest.raises(UserError, match="is not here any more"):
            uploads.read(places[0] / "digest" / "grey.png")
    finally:
        uploads.close()
    assert not uploads.folder.exists()


def test_no_file_elsewhere_is_read_or_deleted(tmp_path):
    uploads = Uploads(LIMITS)
    pictures()["grey.png"].save(tmp_path / "mine.png")
    try:
        link = uploads.new()
        link.symlink_to(tmp_path)
        for path in (tmp_path / "mine.png", "/etc/passwd", link / "mine.png", uploads.folder / ".." / "x", ""):
            with pytest.raises(UserError, match="is not here any more"):
                uploads.read(path)
        assert (tmp_path / "mine.png").is_file()
    finally:
        uploads.close()


def test_what_nobody_asks_about_is_deleted_later():
    uploads = Uploads(LIMITS)
    try:
        place = uploads.new()
        place.mkdir()
        uploads.sweep()
        assert place.is_dir()
        uploads.sweep(age=-1)
        assert not place.exists()
    finally:
        uploads.close()
