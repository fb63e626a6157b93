"""ImageNet's archives to `train/<wnid>/` and `val/<wnid>/`, the layout that everybody uses."""

import shutil
import tarfile
from pathlib import Path

from topgap_jax.data.published.download import Archive, unpack

DEVKIT = "ILSVRC2012_devkit_t12"
WORDS = "synset_words.txt"  # lines of "<wnid> <words>", made from the devkit


def place(archive: Archive, path: Path, folder: Path) -> None:
    """Unpacks one of the three archives; the validation pictures need the devkit unpacked before.

    Raises:
        ValueError: an archive that cannot be unpacked or has other files than the published one.
    """
    try:
        if archive.name.startswith(DEVKIT):
            unpack(path, folder)
            _write_words(folder)
        elif archive.name == "ILSVRC2012_img_val.tar":
            _place_validation(path, folder)
        else:
            _place_training(path, folder / "train")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error


def synsets(folder: Path) -> list[tuple[int, str, str]]:
    """The devkit's 1000 classes: its own number of the class, the wnid, the words."""
    from scipy.io import loadmat  # takes half a second

    table = loadmat(folder / DEVKIT / "data" / "meta.mat", squeeze_me=True)["synsets"]
    leaves = table[table["num_children"] == 0]
    return [(int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in leaves]


def _write_words(folder: Path) -> None:
    lines = sorted(f"{wnid} {words}\n" for _, wnid, words in synsets(folder))
    (folder / WORDS).write_text("".join(lines), encoding="utf-8")


def _place_training(path: Path, folder: Path) -> None:
    """One tar per class inside; a class folder gets its name when it is whole."""
    with tarfile.open(path) as outer:
        for member in outer:
            wnid = Path(member.name).stem
            inner = outer.extractfile(member) if member.isfile() else None
            if inner is None or (folder / wnid).exists():
                continue
            unfinished = folder / f".{wnid}"
            shutil.rmtree(unfinished, ignore_errors=True)
            with tarfile.open(fileobj=inner) as pictures:
                pictures.extractall(unfinished, filter="data")
            unfinished.rename(folder / wnid)


def _place_validation(path: Path, folder: Path) -> None:
    """All pictures in one heap; line i of the devkit's ground truth is the class of picture i."""
    if not (folder / DEVKIT).is_dir():
        raise ValueError(f"{path} needs the labels in {DEVKIT}.tar.gz: prepare it too")
    wnids = {number: wnid for number, wnid, _ in synsets(folder)}
    truth = folder / DEVKIT / "data" / "ILSVRC2012_validation_ground_truth.txt"
    labels = [wnids[int(line)] for line in truth.read_text().split()]
    with tarfile.open(path) as pictures:
        for member in pictures:
            if not member.isfile():
                continue
            number = int(Path(member.name).stem.rpartition("_")[2])
            pictures.extract(member, folder / "val" / labels[number - 1], filter="data")
