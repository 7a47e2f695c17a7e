"""Epochs of small networks on Fashion-MNIST, where the framework's own work would show."""

from statistics import median

from benchmarks.paired import Rivals, Row, Setting, race, ratio
from benchmarks.rivals import AuthorsLoop, BareLoop


def recipe(setting: Setting) -> list[Row]:
    """An epoch of the author's recipe, and the metrics' share of it."""
    rivals = {"bare": BareLoop(setting.data), "author": AuthorsLoop(setting.data, setting.scratch)}
    taken = race(setting, rivals, "experiment=fashion_mnist_dnn")
    author, bare = ratio(taken["author"], taken["lightbed"]), ratio(taken["lightbed"], taken["bare"])
    share = median(spent / whole for spent, whole in zip(Rivals.spent[1:], taken["lightbed"], strict=False))
    fastest = {name: f"{min(times):.2f} s" for name, times in taken.items()}
    return [
        Row("epoch of the author's recipe, the author's loop to Lightbed",
            f"{author:.1f} x: {fastest['author']} to {fastest['lightbed']}", ">= 3 x", author >= 3),
        Row("the same, Lightbed to a bare loop in memory",
            f"{bare:.2f} x: {fastest['lightbed']} to {fastest['bare']}", "<= 1.35 x", bare <= 1.35),
        Row("metrics' share of that epoch", f"{share:.1%}", "< 5 %", share < 0.05),
    ]  # fmt: skip


def template(setting: Setting) -> list[Row]:
    """An epoch with validation of lightning-hydra-template's demo: its network, batch size and split."""
    hidden, batch, validation, mean, std = (64, 128, 64), 128, 5000, 0.1307, 0.3081
    rival = BareLoop(setting.data, hidden, batch, 1e-3, validation, mean, std)
    taken = race(
        setting,
        {"bare": rival},
        "data=fashion_mnist",
        "model=dnn",
        f"model.hidden={list(hidden)}",
        f"data.batch_size={batch}",
        "data.drop_last=true",
        f"data.eval_batch_size={batch}",
        f"data.val_fraction={validation / 60_000}",
        f"data.mean={mean}",
        f"data.std={std}",
        "optimizer.lr=1e-3",
        "optimizer.fused=true",
    )
    times = ratio(taken["lightbed"], taken["bare"])
    what = "epoch with validation of lightning-hydra-template's demo, Lightbed to a bare loop in memory"
    return [Row(what, f"{times:.2f} x: {min(taken['lightbed']):.2f} s to {min(taken['bare']):.2f} s", "1.1 s")]
