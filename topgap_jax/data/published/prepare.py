"""Brings the paper's data sets into `data_dir/NAME/`, and says how where one is missing."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from topgap_jax.data.published.archives import DATA_SETS, Place
from topgap_jax.data.published.download import Archive, fetch, verify
from topgap_jax.data.published.layout import how_to_get

DONE = ".prepared"  # in the data set's folder: the names of the archives that are unpacked
DOWNLOADS = "archives"  # in the data set's folder: what is being downloaded


def prepare(
    name: str,
    data_dir: str | Path = "data",
    *,
    archives: str | Path | None = None,
    only: Sequence[str] = (),
    keep_archives: bool = False,
    report: Callable[[str], object] = print,
) -> Path:
    """Brings a data set into `data_dir/NAME/`; what is there already is not fetched or unpacked again.

    Args:
        name: one of `DATA_SETS`, or "tfds:NAME" (needs the extra "tfds", that is TensorFlow).
        data_dir: parent of the data sets' folders.
        archives: a folder with archives that the user has; they are read where they lie.
        only: parts of names: the archives to prepare, instead of the usual ones.
        keep_archives: leave downloaded archives in `data_dir/NAME/archives/`.
        report: receives lines for a person.

    Returns:
        The data set's folder.

    Raises:
        ValueError: an unknown name, archives that cannot be had or are wrong, a full disk.
    """
    if name.startswith("tfds:"):
        from topgap_jax.data.tfds import prepare_tfds

        return prepare_tfds(name.removeprefix("tfds:"), data_dir, archives)
    if name not in DATA_SETS:
        raise ValueError(f"no data set {name!r} to prepare; there are {', '.join(DATA_SETS)} and tfds:NAME")
    if archives and not Path(archives).is_dir():
        raise ValueError(f"--archives {archives} is no folder")
    folder = Path(data_dir) / name
    todo = [each for each in chosen_archives(name, only) if not _is_done(each, folder)]
    own = {each: Path(archives) / each.name for each in todo} if archives else {}
    own = {each: path for each, path in own.items() if path.exists()}
    downloads = [each for each in todo if each not in own]
    _check_sources(name, [each for each in downloads if not each.address], archives)
    _check_space(name, folder, todo, downloads, keep_archives)
    for archive in todo:
        path = own.get(archive) or _download(archive, folder / DOWNLOADS)
        _unpack_once(archive, path, folder, DATA_SETS[name].place, report)
        if archive not in own and not keep_archives:
            path.unlink()
    report(f"{name} is prepared in {folder}")
    return folder


def prepared_folder(name: str, data_dir: str | Path, *needed: str) -> Path:
    """The folder of a data set that is to be read.

    Args:
        name: one of `DATA_SETS`.
        data_dir: parent of the data sets' folders.
        *needed: what has to lie in it.

    Raises:
        ValueError: something is missing; the message says the command that brings it.
    """
    folder = Path(data_dir) / name
    if missing := [part for part in needed or [""] if not (folder / part).exists()]:
        there = "is missing" if not folder.exists() else f"lacks {', '.join(missing)}"
        raise ValueError(f"{folder} {there}; {how_to_get(name, data_dir)}")
    return folder


def is_prepared(name: str, data_dir: str | Path) -> bool:
    """Whether the usual archives of a data set are unpacked."""
    return all(_is_done(archive, Path(data_dir) / name) for archive in chosen_archives(name))


def chosen_archives(name: str, only: Sequence[str] = ()) -> list[Archive]:
    """The archives of a data set whose names contain one of the words; without words, the usual ones.

    Raises:
        ValueError: a word that no archive's name contains.
    """
    archives, words = DATA_SETS[name].archives, only or DATA_SETS[name].usual or ("",)
    if unknown := [word for word in words if not any(word in archive.name for archive in archives)]:
        there = ", ".join(archive.name for archive in archives)
        raise ValueError(f"{name} has no archive {unknown[0]!r}; there are {there}")
    return [archive for archive in archives if any(word in archive.name for word in words)]


def _is_done(archive: Archive, folder: Path) -> bool:
    done = folder / DONE
    unpacked = done.exists() and archive.name in done.read_text().splitlines()
    return unpacked and all((folder / made).exists() for made in archive.makes)


def _check_sources(name: str, lacking: Sequence[Archive], archives: str | Path | None) -> None:
    if lacking:
        names = ", ".join(archive.name for archive in lacking)
        place = f"{archives} lacks" if archives else "download"
        raise ValueError(
            f"{name} can be had only from {DATA_SETS[name].register}, after registering: {place} {names}; "
            f"then run: topgap data prepare {name} --archives FOLDER_OF_THE_ARCHIVES"
        )


def _check_space(
    name: str, folder: Path, todo: Sequence[Archive], downloads: Sequence[Archive], keep: bool
) -> None:
    """Room for what is unpacked, and for one archive at a time, or for all where they are kept."""
    sizes = [archive.size for archive in downloads] or [0]
    needed = sum(archive.unpacked or archive.size for archive in todo) + (sum if keep else max)(sizes)
    existing = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    there = sum(part.stat().st_size for part in (folder / DOWNLOADS).glob("*"))
    free = shutil.disk_usage(existing).free + there
    if needed > free:
        raise ValueError(
            f"{name} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free"
        )


def _download(archive: Archive, folder: Path) -> Path:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    folder.mkdir(parents=True, exist_ok=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns) as bar:
        task = bar.add_task(archive.name, total=archive.size)
        return fetch(archive, folder, lambda done: bar.update(task, completed=done))


def _unpack_once(
    archive: Archive, path: Path, folder: Path, place: Place, report: Callable[[str], object]
) -> None:
    """Verifies and unpacks an archive, and notes that it is done."""
    report(f"{archive.name}: verifying")
    try:
        verify(archive, path)
    except ValueError as error:
        advice = (
            f"delete it and run the same command again, or unpack it into {folder} yourself if you trust it"
        )
        raise ValueError(f"{error}; {advice}") from error
    report(f"{archive.name}: unpacking")
    place(archive, path, folder)
    if missing := [made for made in archive.makes if not (folder / made).exists()]:
        raise ValueError(f"{path} is another archive than the published one: it has no {', '.join(missing)}")
    with (folder / DONE).open("a") as done:
        done.write(f"{archive.name}\n")
