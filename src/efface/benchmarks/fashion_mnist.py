"""Fashion-MNIST (Xiao, Rasul and Vollgraf, arXiv:1708.07747): a class, a sub-class, random rows or wrong labels of real pictures.

Reads the four idx files of a folder, or what `efface fetch fashion-mnist` put into the cache. A seed draws `train_rows` of
the 60,000 training pictures and `test_rows` of the 10,000 test pictures; pixels are scaled to 0..1. In the sub-class scenario
the labels are for summer, for winter, for any season, and bag; one kind of things (sneakers, for any season) is forgotten. These
groups are as mixed as the coarse labels of CIFAR-100. With footwear as a group, sneakers would be told by sandals and boots, and
a retrained model would know them as well as the original does.

Original and three references are trained once and kept in the cache. At the default sizes on one CPU core this takes about
two minutes, and about five in the noisy scenario, where wrong labels must be learned by heart. Pictures that stand in two
parts, byte for byte, are noted, and their later copies left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from efface.core import digest
from efface.core.card import Card
from efface.core.config import Config, Fit
from efface.core.context import Context
from efface.core.errors import BadConfig
from efface.core.types import Benchmark, Case, Data, Row
from efface.data import fetch
from efface.families import idx, networks, scenarios, splits
from efface.families.classifier import Classifier
from efface.families.references import trained
from efface.families.scenarios import Scenario, Split

CLASSES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
GROUPS = (0, 2, 1, 0, 1, 0, 2, 2, 3, 1)
"""Group of each class: summer, winter, any season, bag."""


class FashionMnistConfig(Config):
    """Settings of the benchmark."""

    scenario: Scenario = "class"
    """What is forgotten: all rows of one class, with classes or groups of them as labels, random rows, or rows with wrong labels."""
    label: int = Field(7, ge=0, le=9)
    """The class of the class and the subclass scenario; 7 are sneakers."""
    share: float = Field(0.1, gt=0, lt=1)
    """Share of the training rows that the random and the noisy scenario forget."""
    train_rows: int = Field(6000, ge=20, le=60000)
    """Rows to train on, forget rows included; 60000 are all."""
    test_rows: int = Field(2000, ge=20, le=10000)
    """Rows to test with, those like the forget rows included; 10000 are all."""
    seed: int = 0
    """Of the rows drawn and of the wrong labels."""
    net: Literal["small", "resnet18"] = "small"
    """The network: three convolutions, or ResNet-18."""
    folder: str = ""
    """Folder with the four idx files; "" for the fetched ones."""
    fit: Fit = Fit(lr=2e-3, epochs=8, batch=64, schedule="linear", weight_decay=5e-4, precision="no")
    """Optimizer settings of original and references, but in the noisy scenario."""
    noisy_fit: Fit = Fit(lr=2e-3, epochs=25, batch=64, schedule="linear", clip=0, precision="no")
    """Optimizer settings of original and references in the noisy scenario."""


class FashionMnist(Benchmark[FashionMnistConfig]):
    """A convolutional network on pictures of clothes, with references that never saw the forget rows."""

    card = Card(
        name="fashion_mnist", title="Fashion-MNIST: a class, a sub-class, random rows or wrong labels forgotten", paper="arXiv:1708.07747", families=("classifier",),
        departs="a part of the rows by default; AdamW and no augmentation",
    )

    def case(self, ctx: Context) -> Case:
        """The trained network, the request, three references, and the test rows as utility."""
        config = self.config
        folder = Path(config.folder) if config.folder else fetch.folder("fashion-mnist")
        train, test = (_drawn(folder, part, count, config.seed) for part, count in (("train", config.train_rows), ("t10k", config.test_rows)))
        count = round(config.share * len(train))
        if not 0 < count < min(len(train), len(test)):
            raise BadConfig(f"share = {config.share} of {len(train)} rows is {count}; it must leave rows to keep, and be fewer than the {len(test)} test rows")
        parts = _clean(scenarios.part(train, test, config.scenario, scenarios.Rules(config.label, count, GROUPS, config.seed)), ctx)
        asked = scenarios.request(parts, config.scenario, config.label)
        fit = config.noisy_fit if config.scenario == "noisy" else config.fit
        outputs = len(set(GROUPS)) if config.scenario == "subclass" else len(CLASSES)
        baselines = trained(lambda seed: _network(config.net, seed, outputs), asked, fit, ctx, "fashion_mnist")
        return Case(
            name=f"fashion_mnist/{config.scenario}", original=baselines["original"], request=asked, baselines=baselines,
            reference=f"the same network trained on the {len(parts.keep)} keep rows alone, three seeds",
            utility={"test rows": Data.inline(parts.test)},
        )


def _drawn(folder: Path, part: str, count: int, seed: int) -> list[Row]:
    """`count` rows of a part, drawn by the seed; all, in an order of their own, when there are no more."""
    pictures, labels = idx.read_pair(folder, part)
    order = np.random.RandomState(seed).permutation(len(pictures))[:count]  # noqa: NPY002  its stream is frozen, where the new generators' may change
    return [{"x": pictures[place][None].astype(np.float32) / 255, "y": int(labels[place]), "id": f"{part}-{place}"} for place in order]


def _clean(parts: Split, ctx: Context) -> Split:
    """The parts without rows whose picture stands in an earlier part too; what is found is noted."""
    named = {"forget": parts.forget, "keep": parts.keep, "unseen": parts.unseen, "test": parts.test}
    rows = [(splits.Item(str(row["id"]), part, "", digest.of_value(row["x"])), row) for part, held in named.items() for row in held]
    return Split(**splits.sifted(rows, ctx, "fashion_mnist"))


def _network(net: str, seed: int, outputs: int) -> Classifier:
    if net == "resnet18":
        return Classifier(networks.seeded(networks.resnet18, seed, channels=1, outputs=outputs))
    shape: dict[str, Any] = {"channels": 1, "side": 28, "outputs": outputs}
    return Classifier(networks.seeded(networks.SmallCNN, seed, **shape), shape)
