"""Where the paper's data sets are published: addresses, sizes and checksums of their archives."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from topgap_jax.data.published.download import Archive, unpack

Place = Callable[[Archive, Path, Path], None]  # an archive, its file, the data set's folder


def _unpack(archive: Archive, path: Path, folder: Path) -> None:
    unpack(path, folder)


class DataSet(NamedTuple):
    """How a data set is published."""

    title: str
    archives: tuple[Archive, ...]  # in the order in which they are unpacked
    usual: tuple[str, ...] = ()  # parts of archive names that are prepared unless others are asked for
    place: Place = _unpack
    register: str = ""  # where a person has to ask for the archives


def _place_imagenet(archive: Archive, path: Path, folder: Path) -> None:
    from topgap_jax.data.published.imagenet_archives import place

    place(archive, path, folder)


def _place_corruptions(archive: Archive, path: Path, folder: Path) -> None:
    """The corruptions side by side, also where a folder with the archive's name is around them."""
    unpack(path, folder)
    around = folder / Path(archive.name).stem
    for corruption in around.glob("*"):
        corruption.rename(folder / corruption.name)
    if around.is_dir():
        around.rmdir()


def _coco(kind: str, size: int, sha256: str, *makes: str, unpacked: int = 0) -> Archive:
    folder = "annotations" if kind.startswith("annotations") else "zips"
    address = f"http://images.cocodataset.org/{folder}/{kind}.zip"
    return Archive(f"{kind}.zip", size, f"sha256:{sha256}", address, makes, unpacked)


def _imagenet_c(name: str, gigabytes: int, md5: str, *makes: str) -> Archive:
    address = f"https://zenodo.org/records/2235448/files/{name}.tar?download=1"
    return Archive(f"{name}.tar", gigabytes * 10**9, f"md5:{md5}", address, makes, exact=False)


# Sizes and checksums as TFDS publishes them in its lists of checksums. Otherwise: ImageNet's devkit as
# torchvision does; ImageNet-C as Zenodo does, sizes rounded; for Waterbirds nobody publishes a checksum.
DATA_SETS = {
    "cifar10": DataSet(
        "CIFAR-10",
        (
            Archive(
                "cifar-10-binary.tar.gz",
                170052171,
                "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                ("cifar-10-batches-bin",),
                184380000,
            ),
        ),
    ),
    "cifar100": DataSet(
        "CIFAR-100",
        (
            Archive(
                "cifar-100-binary.tar.gz",
                168513733,
                "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
                ("cifar-100-binary",),
                184440000,
            ),
        ),
    ),
    "imagenet": DataSet(
        "ImageNet (ILSVRC 2012)",
        (
            Archive(
                "ILSVRC2012_devkit_t12.tar.gz",
                2568145,
                "md5:fa75699e90414af021442c21a62c3abf",
                makes=("ILSVRC2012_devkit_t12", "synset_words.txt"),
                exact=False,
            ),
            Archive(
                "ILSVRC2012_img_val.tar",
                6744924160,
                "sha256:c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
                makes=("val",),
            ),
            Archive(
                "ILSVRC2012_img_train.tar",
                147897477120,
                "sha256:b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
                makes=("train",),
            ),
        ),
        place=_place_imagenet,
        register="https://image-net.org/download.php",
    ),
    "imagenet_sketch": DataSet(
        "ImageNet-Sketch",
        (
            Archive(
                "ImageNet-Sketch.zip",
                7593573012,
                "sha256:4d3ce6b82a7c48aabf14aeac105eb533e75707f152cc858f55bfc022031a72ed",
                "https://huggingface.co/datasets/songweig/imagenet_sketch/resolve/main/data/ImageNet-Sketch.zip",
                ("sketch",),
            ),
        ),
    ),
    "imagenet_c": DataSet(
        "ImageNet-C",
        (
            _imagenet_c("noise", 23, "e80562d7f6c3f8834afb1ecf27252745", "gaussian_noise"),
            _imagenet_c("blur", 8, "2d8e81fdd8e07fef67b9334fa635e45c", "defocus_blur"),
            _imagenet_c("weather", 13, "33ffea4db4d93fe4a428c40a6ce0c25d", "frost"),
            _imagenet_c("digital", 8, "89157860d7b10d5797849337ca2e5c03", "contrast"),
            _imagenet_c("extra", 16, "d492dfba5fc162d8ec2c3cd8ee672984", "speckle_noise"),
        ),
        usual=("noise", "blur", "weather", "digital"),
        place=_place_corruptions,
    ),
    "oxford_pet": DataSet(
        "Oxford-IIIT Pet",
        (
            Archive(
                "annotations.tar.gz",
                19173078,
                "sha256:52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                "https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz",
                ("annotations",),
                100_000_000,
            ),
            Archive(
                "images.tar.gz",
                791918971,
                "sha256:67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                "https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
                ("images",),
            ),
        ),
    ),
    "cub": DataSet(
        "CUB-200-2011",
        (
            Archive(
                "CUB_200_2011.tgz",
                1150585339,
                "sha256:0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
                ("CUB_200_2011",),
            ),
            Archive(
                "segmentations.tgz",
                39272883,
                "sha256:dc77f6cffea0cbe2e41d4201115c8f29a6320ecb04fffd2444f51b8066e4b84f",
                "https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz?download=1",
                ("segmentations",),
                100_000_000,
            ),
        ),
    ),
    "waterbirds": DataSet(
        "Waterbirds",
        (
            Archive(
                "waterbird_complete95_forest2water2.tar.gz",
                500_000_000,
                "",
                "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
                ("waterbird_complete95_forest2water2",),
                exact=False,
            ),
        ),
    ),
    "coco": DataSet(
        "COCO 2017 (2014: --only 2014)",
        (
            _coco(
                "annotations_trainval2017",
                252907541,
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
                "annotations/instances_train2017.json",
                "annotations/instances_val2017.json",
                unpacked=1_200_000_000,
            ),
            _coco(
                "val2017",
                815585330,
                "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
                "val2017",
            ),
            _coco(
                "train2017",
                19336861798,
                "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
                "train2017",
            ),
            _coco(
                "annotations_trainval2014",
                252872794,
                "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
                "annotations/instances_train2014.json",
                "annotations/instances_val2014.json",
                unpacked=1_200_000_000,
            ),
            _coco(
                "val2014",
                6645013297,
                "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
                "val2014",
            ),
            _coco(
                "train2014",
                13510573713,
                "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
                "train2014",
            ),
        ),
        usual=("2017",),
    ),
}
