"""Make the README's picture, docs/quickstart.png, with the shipped weights: the same figure as the first of notebook 00.

python tools/picture.py
"""

from pathlib import Path

import numpy as np

from diffmask_lite import plots, weights
from diffmask_lite.datasets import CIFAR10, cat_photograph, preprocess
from diffmask_lite.vit.storage import write

TARGET = Path(__file__).resolve().parents[1] / "docs" / "quickstart.png"


def main() -> None:
    vit, explainer = weights.pretrained("cifar10")
    photograph = cat_photograph()
    image = preprocess(vit)(photograph)[None]
    result = explainer.explain(image)
    check = explainer.verify(image, result.keep, result.logits)
    picture = plots.displayable(image, CIFAR10.mean, CIFAR10.std)
    figure = plots.explained(np.asarray(photograph) / 255, picture[0], result, check, CIFAR10.classes)
    TARGET.parent.mkdir(exist_ok=True)
    write(TARGET, plots.png(figure))
    print(f"{TARGET}: {plots.alt_text(figure)}")


if __name__ == "__main__":
    main()
