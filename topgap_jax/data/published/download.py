"""Archives: fetched so that a broken download goes on, verified, unpacked without leaving their folder."""

import gzip
import hashlib
import http.client
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

CHUNK = 1 << 20  # bytes per read
TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing


class Archive(NamedTuple):
    """A published file of a data set."""

    name: str  # of the file
    size: int  # bytes
    checksum: str  # "sha256:..." or "md5:..." as published, "" where none is
    address: str = ""  # "" where only the user can get it
    makes: tuple[str, ...] = ()  # what lies in the data set's folder once it is unpacked
    unpacked: int = 0  # bytes; 0: about `size`
    exact: bool = True  # whether `size` is known to the byte


def fetch(
    archive: Archive,
    folder: Path,
    progress: Callable[[int], object],
    *,
    pause: Callable[[float], object] = time.sleep,
) -> Path:
    """Downloads an archive, going on where an earlier attempt stopped.

    Args:
        archive: with an address.
        folder: where it is written, as `<name>.part` until it is whole.
        progress: told how many bytes of it are there, again and again.
        pause: waits between attempts, in seconds.

    Raises:
        ValueError: the server refuses, or the connection broke too often; what came so far is kept.
    """
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.exists():
        progress(_size(target))
        return target
    failures = 0
    while True:
        before = _size(part)
        try:
            _go_on(archive.address, part, progress)
            return part.rename(target)
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise ValueError(f"{archive.address} answers {error.code} {error.reason}") from error
            broken: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            broken = error
        failures = 1 if _size(part) > before else failures + 1
        if failures >= ATTEMPTS:
            raise ValueError(
                f"{archive.address} cannot be read ({broken}); {_size(part)} bytes lie in {part}, "
                "the same command goes on there"
            )
        pause(2.0**failures)


def verify(archive: Archive, path: Path) -> None:
    """Compares size and checksum with the published ones.

    Raises:
        ValueError: they differ.
    """
    if archive.exact and _size(path) != archive.size:
        raise ValueError(f"{path} has {_size(path)} bytes, not the published {archive.size}")
    if not archive.checksum:
        return
    kind, _, published = archive.checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != published:
        raise ValueError(f"{path} has the {kind} checksum {found}, not the published {published}")


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a tar (compressed or not) or zip file.

    Raises:
        ValueError: a file that is neither, is broken, or would write outside of `folder`.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                for name in file.namelist():
                    _check_inside(name)
                file.extractall(folder)
        else:
            with tarfile.open(path) as tar:
                tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}") from error


def _go_on(address: str, part: Path, progress: Callable[[int], object]) -> None:
    """One connection: from the end of `part` where the server can, else from the start."""
    start = _size(part)
    headers = {"User-Agent": "topgap-jax"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{start}":
            progress(start)  # it was whole already
            return
        part.unlink()  # longer than what the server has now
        raise ConnectionError("the file on the server has changed") from error
    with response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise ConnectionError(f"asked for bytes from {start}, got {response.headers['Content-Range']}")
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                progress(file.tell())
        expected = int(response.headers.get("Content-Length", 0)) + (start if resumed else 0)
    if _size(part) < expected:
        raise ConnectionError(f"the connection broke after {_size(part)} of {expected} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_inside(name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise zipfile.BadZipFile(f"{name!r} would be written outside of the folder")
