"""Images of the runs' own test data."""

import torch

from lightbed.data.digits import Digits
from lightbed.runs.load import load_run
from lightbed.web.examples import examples


def test_they_are_test_images_once_for_each_data_set(digits_run, tmp_path):
    loaded = load_run(digits_run)
    paths = {"cache": str(tmp_path)}
    found = examples({"a": loaded, "b": loaded}, paths, 3, trust=False)
    data = Digits()
    data.setup()
    numbers = [int(one.name.removeprefix("Digits, test image ")) for one in found]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 3
    for number, one in zip(numbers, found, strict=True):
        assert torch.equal(one.image, data.splits["test"][number][0].expand(3, -1, -1))
    assert not examples({"a": loaded}, paths, 0, trust=False)


def test_data_that_is_not_here_is_told_and_left_out(digits_run, tmp_path, capsys):
    loaded = load_run(digits_run)
    elsewhere = {**loaded.config["data"], "_target_": "lightbed.data.folder.ImageFolder", "root": str(tmp_path / "no")}
    gone = loaded._replace(config={**loaded.config, "data": elsewhere})
    found = examples({"gone": gone, "here": loaded}, {"cache": str(tmp_path)}, 2, trust=False)
    assert len(found) == 2
    assert "no examples of gone: " in capsys.readouterr().out
