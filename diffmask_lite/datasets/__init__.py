"""The images of the course: a generated colour grid, CIFAR-10, folders of your own pictures, and one photograph of a cat.

Every data set is map-style and yields normalised images first: `(image, label, …)`. A picture becomes an image in two calls:
`load_image` opens a file, and `preprocess(vit)` turns what it returns into what the ViT takes.
"""

from .pictures import IMAGE_ENDINGS, ImageFolder, cat_photograph, find_images, load_image
from .preprocessing import FITS, Preprocessing, preprocess
from .tasks import CIFAR10, COUNTED, GREY, PALETTE, ColourGrid, data_root, imagenet_folder, test_set

__all__ = [
    "CIFAR10", "COUNTED", "FITS", "GREY", "IMAGE_ENDINGS", "PALETTE", "ColourGrid", "ImageFolder", "Preprocessing",
    "cat_photograph", "data_root", "find_images", "imagenet_folder", "load_image", "preprocess", "test_set",
]  # fmt: skip
