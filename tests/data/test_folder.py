"""Any folder of class folders: its layouts, its faults, cached and streamed reading."""

import pytest
import torch
from PIL import Image

import fakes
from lightbed.data.folder import ImageFolder
from lightbed.data.images import read_image
from lightbed.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """An ImageFolder over tmp_path/photos, set up."""

    def opened(**settings):
        root = settings.pop("root", tmp_path / "photos")
        data = ImageFolder(root, **{"image_size": 24, "cache_dir": tmp_path / "cache", **settings})
        data.prepare_data()
        data.setup()
        return data

    return opened


@pytest.fixture
def root(tmp_path):
    return fakes.image_folder(tmp_path / "photos")


def sizes(data):
    return {name: len(source) for name, source in data.splits.items()}


def test_splits_are_cut_where_there_are_none(folder, root):
    data = folder(test_fraction=0.2, val_fraction=0.25)
    assert sizes(data) == {"train": 18, "test": 6, "val": 6}
    assert data.classes == ["apple", "pear", "plum"]
    paths = [path for source in data.splits.values() for path in source.paths]
    assert sorted(paths) == sorted(str(path) for path in root.rglob("*.png"))
    for source in data.splits.values():
        for i in range(len(source)):
            image, target = source[i]
            assert data.classes[int(target["label"])] in target["path"]
            assert torch.equal(image, data.preprocess.fit(read_image(target["path"])))


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "val", "test"), {"train": 12, "val": 12, "test": 12}),
        (("Train", "VALIDATION"), {"train": 10, "val": 12, "test": 2}),
        (("TRAIN", "Test"), {"train": 11, "val": 1, "test": 12}),
        (("train", "valid", "test"), {"train": 12, "val": 12, "test": 12}),
        (("train",), {"train": 9, "val": 1, "test": 2}),
    ],
)
def test_given_splits_are_kept_and_missing_ones_cut_from_train(folder, tmp_path, splits, expected):
    root = fakes.image_folder(tmp_path / "photos", count=4, splits=splits)
    data = folder()
    assert sizes(data) == expected
    given = {"val" if name.lower().startswith("val") else name.lower(): name for name in splits}
    for name, source in data.splits.items():
        assert all(path.startswith(f"{root}/{given.get(name, given['train'])}/") for path in source.paths)


def test_classes_are_the_union_over_splits_and_gaps_are_reported(folder, tmp_path, capsys):
    root = fakes.image_folder(tmp_path / "photos", ("apple", "pear"), splits=("train",))
    fakes.image_folder(tmp_path / "photos", ("apple", "plum"), splits=("test",))
    (root / "train" / "quince").mkdir()
    data = folder(val_fraction=0)
    assert data.classes == ["apple", "pear", "plum"]
    out = capsys.readouterr().out
    assert "class plum has no images in the train split" in out
    assert "class pear has no images in the test split" in out
    assert "folder quince holds no images and is no class" in out


def test_a_class_may_be_called_test(folder, tmp_path):
    fakes.image_folder(tmp_path / "photos", ("test", "trial"))
    assert folder().classes == ["test", "trial"]


def test_hidden_files_other_files_and_nested_folders(folder, root, capsys):
    (root / "apple" / "._apple.png").write_bytes(b"junk")
    (root / "apple" / "notes.txt").write_text("no image")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "a.png").touch()
    (root / "pear" / "green").mkdir()
    Image.new("RGB", (9, 9)).save(root / "pear" / "green" / "deep.PNG")
    Image.new("RGB", (9, 9)).save(root / "cover.png")
    data = folder(val_fraction=0, test_fraction=0)
    assert sizes(data) == {"train": 31}
    assert data.classes == ["apple", "pear", "plum"]
    assert "1 images beside the class folders are left out, e.g. cover.png" in capsys.readouterr().out


def lone(root):
    fakes.image_folder(root, ("cat",))


def flat(root):
    root.mkdir()
    Image.new("RGB", (9, 9)).save(root / "a.png")


def twice(root):
    fakes.image_folder(root, splits=("train", "val", "validation"), count=1)


def test_folders_called_training_and_testing_are_splits(folder, tmp_path):
    fakes.image_folder(tmp_path / "photos", ("cat", "dog"), splits=("Training", "Testing"), count=4)
    data = folder()
    assert data.classes == ["cat", "dog"]
    assert len(data.splits["test"]) == 8


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda root: None, "photos does not exist$"),
        (lambda root: root.touch(), "photos is a file, not a folder of class folders$"),
        (lambda root: root.mkdir(), "photos holds no images"),
        (lambda root: (root / "cat").mkdir(parents=True), "photos holds no images"),
        (lone, "has only one class, cat"),
        (flat, r"holds images but no class folders, e\.g\. a\.png: put each .* data\.labels=FILE\.csv"),
        (twice, "has val and validation, which both mean the val split: keep one"),
        (lambda root: fakes.image_folder(root, splits=("val", "test"), count=1), "has test and val but no train"),
    ],
)
def test_folders_that_are_none(folder, tmp_path, draw, message):
    draw(tmp_path / "photos")
    with pytest.raises(UserError, match=message) as caught:
        folder()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{}, {"cache": False}, {"cache_limit_gb": 1e-9}, {"cache": False, "num_workers": 2}]
)
def test_cached_and_streamed_reading_give_the_same_batches(folder, root, settings):
    cached, other = folder(batch_size=7), folder(batch_size=7, **settings)
    for ours, theirs in zip(cached.train_dataloader(), other.train_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert ours[1].keys() == theirs[1].keys() == {"label", "index"}
        assert all(torch.equal(ours[1][name], theirs[1][name]) for name in ours[1])
    images, target = ours
    assert images.dtype == torch.uint8
    assert images.shape[1:] == (3, 24, 24)
    assert target["label"].dtype == torch.int64


def test_a_set_over_the_limit_is_told(folder, root, capsys, tmp_path):
    folder(cache_limit_gb=1e-9)
    assert "more than data.cache_limit_gb=1e-09: each epoch reads them from their files" in capsys.readouterr().out
    assert not list((tmp_path / "cache").rglob("images.bin"))


def test_workers_last_over_epochs(folder, root):
    loader = folder(cache=False, num_workers=2, val_fraction=0, test_fraction=0).train_dataloader()
    for _ in range(2):
        assert sum(len(images) for images, _ in loader) == 30


@pytest.mark.parametrize("cache", [True, False])
class TestBrokenFiles:
    def test_stop_before_the_training(self, folder, root, cache):
        (root / "apple" / "apple_001.png").write_bytes(b"junk")
        (root / "plum" / "plum_001.png").write_bytes(b"")
        for _ in range(2):
            with pytest.raises(UserError, match=r"apple_001\.png is no image .* \(and 1 more\); .*data\.broken=skip"):
                folder(cache=cache)

    def test_or_are_left_out_and_counted(self, folder, root, cache, caplog, capsys):
        (root / "apple" / "apple_001.png").write_bytes(b"junk")
        (root / "plum" / "plum_001.png").write_bytes(b"")
        data = folder(cache=cache, broken="skip", val_fraction=0, test_fraction=0)
        assert sizes(data) == {"train": 28}
        assert [line.rpartition("/")[2] for line in data.skipped] == [
            "apple_001.png is no image that can be read",
            "plum_001.png is empty",
        ]
        named = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert [line.startswith("left out: ") for line in named] == [True, True]
        assert "2 images cannot be read and are left out; log.txt names them" in capsys.readouterr().out
        labels = torch.cat([target["label"] for _, target in data.train_dataloader()])
        assert labels.bincount().tolist() == [9, 10, 9]
        source = data.splits["train"]
        assert all(data.classes[int(source[i][1]["label"])] in source.paths[i] for i in range(28))


def test_every_file_broken(folder, root):
    for path in root.rglob("*.png"):
        path.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"data.test_fraction=0.2 of 0 training images"):
        folder(broken="skip")
    with pytest.raises(UserError, match=r"none of the 30 images of .* can be read"):
        folder(broken="skip", image_size=None)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_later_is_named_with_its_path(folder, root, workers):
    data = folder(cache=False, num_workers=workers, val_fraction=0, test_fraction=0)
    (root / "pear" / "pear_004.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"pear_004\.png is empty"):
        list(data.train_dataloader())


def test_images_keep_their_own_size_where_all_have_one(folder, root):
    data = folder(image_size=None)
    assert data.facts()["image_size"] == [24, 32]
    assert data.preprocess.describe()["size"] == [24, 32]  # what a checkpoint remembers
    Image.new("RGB", (8, 8)).save(root / "pear" / "small.png")
    for cache in (True, False):
        with pytest.raises(UserError, match=r"small\.png is 8x8 .* others are 32x24: set data\.image_size"):
            folder(image_size=None, cache=cache)


def test_grey(folder, root):
    assert folder(channels=1).splits["train"][0][0].shape == (1, 24, 24)


def test_an_unknown_policy_is_refused(folder, root):
    with pytest.raises(UserError, match=r"data\.broken=ignore is not known"):
        folder(broken="ignore")


class TestTable:
    @pytest.fixture
    def table(self, root, tmp_path):
        def written(text):
            (tmp_path / "labels.csv").write_text(text)
            return tmp_path / "labels.csv"

        return written

    ROWS = "path,labels\napple/apple_000.png,red|round\npear/pear_000.png,\nplum/plum_000.png, blue |round\n"

    def test_several_labels(self, folder, table):
        data = folder(labels=table(self.ROWS), multilabel=True, val_fraction=0, test_fraction=0)
        assert data.classes == ["blue", "red", "round"]
        _, target = data.splits["train"].take(torch.arange(3))
        assert target["label"].dtype == torch.float32
        assert target["label"].tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 1]]
        assert data.class_counts().tolist() == [1, 1, 2]

    def test_one_label_and_given_splits(self, folder, table):
        text = "path,labels,split\napple/apple_000.png,b,train\npear/pear_000.png,a,\nplum/plum_000.png,b,Validation\n"
        data = folder(labels=table("\ufeff" + text), test_fraction=0)  # spreadsheets write such a first character
        assert data.classes == ["a", "b"]
        assert sizes(data) == {"train": 2, "val": 1}
        assert data.splits["train"].take(torch.arange(2))[1]["label"].tolist() == [1, 0]
        assert len(data.fingerprint_files()) == 4

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("path,labels\napple/none.png,a\n", r"line 2: there is no image apple/none\.png in data\.root="),
            ("path,labels\napple,a\n", r"line 2: apple is no file"),
            ("path,labels\n,a\n", r"line 2: \(no path\) is no file"),
            ("path,labels\napple/apple_000.png\n", r"line 2: an image has one label, not 0 \(empty\)"),
            ("path,labels\npear/pear_000.png,a\napple/apple_000.png,a|b\n", r"line 3: an image has one label, not 2"),
            ("path,labels\npear/pear_000.png,a\n\npear/pear_000.png,b\n", r"line 4: .* stands in line 2 already"),
            (
                "path,labels,split\npear/pear_000.png,a,dev\n",
                r"line 2: there is no split dev: use train, training, trainval, val",
            ),
            ("file,label\nx,y\n", r"has the columns file, label; it needs path,labels"),
            ("", r"has the columns none; it needs path,labels"),
            ("path,labels\npear/pear_000.png,a\n", r"names 1 labels; at least 2"),
            ("path,labels\n", r"names 0 labels; at least 2"),
        ],
    )
    def test_faults_are_told_with_their_line(self, folder, table, text, message):
        with pytest.raises(UserError, match=r"^data\.labels=.*labels\.csv .*" + message) as caught:
            folder(labels=table(text))
        assert "\n" not in str(caught.value)

    def test_no_such_table(self, folder, root, tmp_path):
        with pytest.raises(UserError, match=r"data\.labels=.* cannot be read: No such file"):
            folder(labels=tmp_path / "none.csv")
        with pytest.raises(UserError, match=r"multilabel=true takes the labels from a table"):
            folder(multilabel=True)
