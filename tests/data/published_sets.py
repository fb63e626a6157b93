"""CIFAR, ImageNet and Oxford-IIIT Pet as their archives hold them, from real pictures that packages ship."""

import importlib.util
import io
import re
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from skimage import data

from topgap_jax.data.published.archives import DATA_SETS
from topgap_jax.data.published.imagenet_archives import place

SAMPLES = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# ImageNet's own numbers do not follow the order of the wnids.
SYNSETS = {
    1: ("n02119789", "kit fox, Vulpes macrotis"),
    2: ("n03126707", "crane"),
    3: ("n02012849", "crane"),
    4: ("n01440764", "tench, Tinca tinca"),
}
VALIDATION = (3, 1, 4, 2, 1, 3)  # ImageNet's number of each validation picture
PETS = {"Abyssinian": 1, "american_bulldog": 2, "Egyptian_Mau": 3}


def samples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """foolbox's 20 pictures of a data set, in order, and their labels."""
    files = sorted(SAMPLES.glob(f"{name}_*.png"))
    pictures = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return pictures, np.array([int(file.stem.split("_")[2]) for file in files], np.uint8)


def write_cifar10(data_dir: Path) -> None:
    """Five training files of four pictures each, all twenty for the test."""
    folder = data_dir / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = samples("cifar10")
    records = np.concatenate([labels[:, None], pictures.transpose(0, 3, 1, 2).reshape(20, -1)], 1)
    for batch in range(5):
        records[4 * batch : 4 * batch + 4].tofile(folder / f"data_batch_{batch + 1}.bin")
    records.tofile(folder / "test_batch.bin")
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")


def write_cifar100(data_dir: Path) -> None:
    folder = data_dir / "cifar100" / "cifar-100-binary"
    folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = samples("cifar100")
    coarse_and_fine = np.stack([labels // 5, labels], 1)
    records = np.concatenate([coarse_and_fine, pictures.transpose(0, 3, 1, 2).reshape(20, -1)], 1)
    records.tofile(folder / "train.bin")
    records[:5].tofile(folder / "test.bin")
    (folder / "fine_label_names.txt").write_text("".join(f"class_{i}\n" for i in range(100)))


def imagenet_jpeg(number: int) -> bytes:
    """One of foolbox's ImageNet pictures."""
    return sorted(SAMPLES.glob("imagenet_*.jpg"))[number].read_bytes()


def cmyk_jpeg(number: int) -> bytes:
    """The same as CMYK, of which ImageNet's training pictures have a few."""
    file = io.BytesIO()
    Image.open(io.BytesIO(imagenet_jpeg(number))).convert("CMYK").save(file, "JPEG")
    return file.getvalue()


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def write_imagenet_archives(folder: Path) -> None:
    """The devkit, the validation pictures and the training pictures, as they are downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = (1001, "n00004475", "organism, being", 2)
    rows = [(number, wnid, words, 0) for number, (wnid, words) in SYNSETS.items()]
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    table = np.array([*rows, inner], fields).reshape(-1, 1)
    mat = io.BytesIO()
    savemat(mat, {"synsets": table})
    devkit = "ILSVRC2012_devkit_t12/data"
    truth = "".join(f"{number}\n" for number in VALIDATION).encode()
    files = {f"{devkit}/meta.mat": mat.getvalue(), f"{devkit}/ILSVRC2012_validation_ground_truth.txt": truth}
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar_of(files, "w:gz"))
    pictures = {f"ILSVRC2012_val_{i + 1:08}.JPEG": imagenet_jpeg(i) for i in range(len(VALIDATION))}
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_of(pictures))
    classes = {}
    for number, (wnid, _) in SYNSETS.items():
        first = cmyk_jpeg(number) if number == 1 else imagenet_jpeg(number)
        second = png(Image.fromarray(data.chelsea()[::4, ::4])) if number == 2 else imagenet_jpeg(number + 4)
        classes[f"{wnid}.tar"] = tar_of({f"{wnid}_7.JPEG": first, f"{wnid}_12.JPEG": second})
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(classes))


def write_imagenet(data_dir: Path) -> None:
    """The archives, unpacked."""
    write_imagenet_archives(data_dir / "own")
    for archive in DATA_SETS["imagenet"].archives:
        place(archive, data_dir / "own" / archive.name, data_dir / "imagenet")


def pet_trimap(number: int) -> np.ndarray:
    """A filled circle with a border two pixels wide, in the values of the trimaps."""
    rows, columns = np.mgrid[:75, :112]
    distance = np.hypot(rows - 30, columns - 40 - number)
    return np.where(distance < 20, 1, np.where(distance < 22, 3, 2)).astype(np.uint8)


def write_oxford_pet(data_dir: Path) -> None:
    """Nine pictures of 75x112; as in the original some files are no JPEG, and strangers lie between them."""
    images, annotations = data_dir / "oxford_pet" / "images", data_dir / "oxford_pet" / "annotations"
    (annotations / "trimaps").mkdir(parents=True, exist_ok=True)
    images.mkdir(exist_ok=True)
    cat = Image.fromarray(data.chelsea()).resize((112, 75))
    lines = []
    for number in range(9):
        breed = list(PETS)[number % 3]
        name = f"{breed}_{100 + number}"
        picture = cat.rotate(10 * number)
        if breed == "Egyptian_Mau":
            how = [("GIF", "P"), ("PNG", "RGBA"), ("GIF", "animated")][number // 3]
            frames = {"save_all": True, "append_images": [cat.convert("P")]} if how[1] == "animated" else {}
            picture.convert("P" if how[0] == "GIF" else how[1]).save(images / f"{name}.jpg", how[0], **frames)
        else:
            picture.save(images / f"{name}.jpg", quality=95)
        Image.fromarray(pet_trimap(number)).save(annotations / "trimaps" / f"{name}.png")
        (annotations / "trimaps" / f"._{name}.png").write_bytes(b"\0\5\x16\7")
        lines.append(f"{name} {PETS[breed]} {1 if re.match('[A-Z]', breed) else 2} 1\n")
    (images / "Abyssinian_100.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    header = "#Image CLASS-ID SPECIES BREED ID\n#ID: 1:37 Class ids\n"
    (annotations / "list.txt").write_text(header + "".join(lines))
    (annotations / "trainval.txt").write_text("".join(lines[:6]))
    (annotations / "test.txt").write_text("".join(lines[6:]))
