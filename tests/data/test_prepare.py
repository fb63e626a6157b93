"""Downloads from a server of our own: broken, resumed, refused, verified, unpacked."""

import hashlib
import http.server
import io
import re
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets

from topgap_jax.data.published.archives import DATA_SETS, DataSet
from topgap_jax.data.published.download import ATTEMPTS, Archive, fetch, unpack, verify
from topgap_jax.data.published.prepare import is_prepared, prepare, prepared_folder

CONTENT = np.random.default_rng(0).bytes(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `behaviour` is what it does wrong, `asked` the Range headers that it saw."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.behaviour, self.asked = {}, [], []

    def address(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wrong = self.server.behaviour.pop(0) if self.server.behaviour else ""
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content = self.server.files.get(self.path[1:])
        if content is None or wrong == "busy":
            return self.send_error(404 if content is None else 503)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and wrong != "no ranges" else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = (
            start + wrong if isinstance(wrong, int) else len(content)
        )  # a number: breaks after so many bytes
        self.wfile.write(content[start:end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def archive_of(name, content, address="", **fields):
    return Archive(name, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}", address, **fields)


def tar_of(files, mode="w:gz"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zip_of(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def fetched(server, folder, behaviour=()):
    server.files["a.bin"], server.behaviour, server.asked = CONTENT, list(behaviour), []
    pauses, seen = [], []
    archive = archive_of("a.bin", CONTENT, server.address("a.bin"))
    path = fetch(archive, folder, seen.append, pause=pauses.append)
    verify(archive, path)
    assert seen[-1] == len(CONTENT) and not list(folder.glob("*.part"))
    return pauses


def test_a_broken_connection_goes_on_where_it_broke(server, tmp_path):
    pauses = fetched(server, tmp_path, [100_000, "busy", 50_000, ""])
    assert server.asked == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert pauses == [2.0, 4.0, 2.0]


def test_a_killed_download_goes_on(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:77])
    fetched(server, tmp_path)
    assert server.asked == ["bytes=77-"]


def test_a_part_that_is_whole_is_only_renamed(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    fetched(server, tmp_path)
    fetched(server, tmp_path)
    assert server.asked == []


@pytest.mark.parametrize(
    ("part", "behaviour"), [(b"x" * 400_000, []), (CONTENT[:9], ["no ranges"]), (b"x" * 9, ["no ranges"])]
)
def test_it_starts_again_where_the_server_cannot_go_on(server, tmp_path, part, behaviour):
    (tmp_path / "a.bin.part").write_bytes(part)
    fetched(server, tmp_path, behaviour)


def test_a_server_that_refuses_or_is_away_ends_it(server, tmp_path):
    gone = archive_of("b.bin", CONTENT, server.address("b.bin"))
    with pytest.raises(ValueError, match=r"b.bin answers 404 Not Found"):
        fetch(gone, tmp_path, print)
    server.files["a.bin"], server.behaviour = CONTENT, [1000] + ["busy"] * ATTEMPTS
    pauses = []
    with pytest.raises(ValueError, match=r"cannot be read .*503.*; 1000 bytes lie in .*a.bin.part, the same"):
        fetch(archive_of("a.bin", CONTENT, server.address("a.bin")), tmp_path, print, pause=pauses.append)
    assert len(pauses) == ATTEMPTS - 1 and (tmp_path / "a.bin.part").stat().st_size == 1000


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (Archive("a", 3, ""), "has 4 bytes, not the published 3"),
        (
            Archive("a", 4, "md5:" + "0" * 32),
            "has the md5 checksum 098f6bcd4621d373cade4e832627b4f6, not the",
        ),
        (Archive("a", 3, "sha256:" + "0" * 64, exact=False), "has the sha256 checksum 9f86d081"),
    ],
)
def test_another_file_than_the_published_one_is_refused(tmp_path, archive, message):
    (tmp_path / "a").write_bytes(b"test")
    with pytest.raises(ValueError, match=message):
        verify(archive, tmp_path / "a")


@pytest.mark.parametrize("name", ["../escaped", "/absolute/escaped", "a/../../escaped"])
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_an_archive_cannot_write_outside_of_its_folder(tmp_path, make, name):
    folder = tmp_path / "deep" / "inside"
    folder.mkdir(parents=True)
    (tmp_path / "evil").write_bytes(make({name: b"gotcha"}))
    before = set(tmp_path.rglob("*"))
    if make is tar_of and name.startswith("/"):
        unpack(tmp_path / "evil", folder)  # tarfile takes the slash away
        assert (folder / "absolute" / "escaped").read_bytes() == b"gotcha"
    else:
        with pytest.raises(ValueError, match=r"evil cannot be unpacked: .*outside"):
            unpack(tmp_path / "evil", folder)
    assert {path for path in set(tmp_path.rglob("*")) - before if folder not in path.parents} == set()


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../secret"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"evil.tar cannot be unpacked"):
        unpack(tmp_path / "evil.tar", tmp_path / "inside")


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", tar_of({"a": CONTENT})[:-5000], zip_of({"a": CONTENT})[:-5000]],
)
def test_a_damaged_archive_is_named(tmp_path, content):
    (tmp_path / "a.tgz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.tgz cannot be unpacked"):
        unpack(tmp_path / "a.tgz", tmp_path / "inside")


@pytest.fixture
def tiny(server, monkeypatch):
    """A data set of two archives on the server."""
    server.files = {
        "pictures.tgz": tar_of({"pictures/a.txt": b"a"}),
        "masks.zip": zip_of({"masks/a.txt": b"m"}),
    }
    archives = tuple(
        archive_of(name, content, server.address(name), makes=(name.split(".")[0],))
        for name, content in server.files.items()
    )
    monkeypatch.setitem(DATA_SETS, "tiny", DataSet("Tiny", archives))
    return server


def test_prepare_downloads_unpacks_and_does_nothing_the_second_time(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"tiny is missing; run: topgap data prepare tiny --data-dir"):
        prepared_folder("tiny", tmp_path, "pictures")
    assert not is_prepared("tiny", tmp_path)
    lines = []
    folder = prepare("tiny", tmp_path, report=lines.append)
    assert folder == tmp_path / "tiny" == prepared_folder("tiny", tmp_path, "pictures", "masks")
    assert (folder / "pictures" / "a.txt").read_text() == "a" and (
        folder / "masks" / "a.txt"
    ).read_text() == "m"
    assert is_prepared("tiny", tmp_path) and not list((folder / "archives").iterdir())
    assert "pictures.tgz: verifying" in lines and lines[-1] == f"tiny is prepared in {folder}"
    tiny.asked.clear()
    assert prepare("tiny", tmp_path) == folder and not tiny.asked


def test_prepare_brings_back_only_what_is_missing(tiny, tmp_path):
    folder = prepare("tiny", tmp_path, keep_archives=True)
    assert {path.name for path in (folder / "archives").iterdir()} == set(tiny.files)
    shutil.rmtree(folder / "archives")
    shutil.rmtree(folder / "masks")
    tiny.asked.clear()
    prepare("tiny", tmp_path)
    assert len(tiny.asked) == 1 and (folder / "masks" / "a.txt").exists()


def test_prepare_keeps_what_is_done_when_a_later_archive_is_wrong(tiny, tmp_path):
    good, tiny.files["masks.zip"] = tiny.files["masks.zip"], zip_of({"masks/a.txt": b"?"})
    with pytest.raises(
        ValueError, match=r"masks.zip has the sha256 .*; delete it and run .*, or unpack it into"
    ):
        prepare("tiny", tmp_path)
    folder = tmp_path / "tiny"
    assert (folder / "pictures").exists() and not (folder / "masks").exists()
    (folder / "archives" / "masks.zip").unlink()
    tiny.files["masks.zip"] = good
    tiny.asked.clear()
    prepare("tiny", tmp_path)
    assert len(tiny.asked) == 1


def test_own_archives_are_used_where_they_lie(tiny, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "masks.zip").write_bytes(tiny.files["masks.zip"])
    prepare("tiny", tmp_path, archives=own)
    assert len(tiny.asked) == 1 and (own / "masks.zip").exists()


def test_only_some_archives(tiny, tmp_path):
    folder = prepare("tiny", tmp_path, only=["mask"])
    assert (folder / "masks").exists() and not (folder / "pictures").exists()
    assert not is_prepared("tiny", tmp_path)
    with pytest.raises(ValueError, match=r"tiny has no archive 'box'; there are pictures.tgz, masks.zip"):
        prepare("tiny", tmp_path, only=["box"])


def test_mistakes_are_told_before_anything_starts(tiny, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"no data set 'tinny' to prepare; there are cifar10, .*, tiny and tfds:"
    ):
        prepare("tinny", tmp_path)
    with pytest.raises(
        ValueError, match=r"registering: download .*devkit_t12.tar.gz, .*val.tar, .*train.tar;"
    ):
        prepare("imagenet", tmp_path)
    with pytest.raises(ValueError, match=rf"registering: {tmp_path} lacks ILSVRC2012_img_val.tar; then run"):
        prepare("imagenet", tmp_path, archives=tmp_path, only=["val"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9e9, 8.9e9, 1e8))
    with pytest.raises(ValueError, match=r"coco needs 40.7 GB in .*coco, where 0.1 GB are free"):
        prepare("coco", tmp_path)
    assert not tiny.asked and not list(tmp_path.iterdir())


def test_an_archive_with_other_contents_is_refused(tiny, tmp_path, monkeypatch):
    first = DATA_SETS["tiny"].archives[0]._replace(makes=("images",))
    monkeypatch.setitem(DATA_SETS, "tiny", DataSet("Tiny", (first,)))
    with pytest.raises(ValueError, match=r"another archive than the published one: it has no images"):
        prepare("tiny", tmp_path)


@pytest.mark.parametrize("around", ["", "weather/"])
def test_corruptions_lie_side_by_side(tmp_path, monkeypatch, around):
    names = [f"{around}{corruption}/1/n01440764/a.JPEG" for corruption in ("fog", "frost")]
    (tmp_path / "weather.tar").write_bytes(tar_of(dict.fromkeys(names, b"a"), "w"))
    published = DATA_SETS["imagenet_c"]
    archives = tuple(archive._replace(checksum="", size=1) for archive in published.archives)
    monkeypatch.setitem(DATA_SETS, "imagenet_c", published._replace(archives=archives))
    folder = prepare("imagenet_c", tmp_path, archives=tmp_path, only=["weather"])
    assert {path.name for path in folder.iterdir()} == {"fog", "frost", ".prepared"}


def test_preparing_a_tfds_set_without_tensorflow_says_what_it_needs(tmp_path):
    if (Path(tensorflow_datasets.__file__).parents[1] / "tensorflow").exists():
        pytest.skip("TensorFlow is installed")
    with pytest.raises(
        ModuleNotFoundError, match=r"tfds:mnist needs TensorFlow .*pip install tensorflow-cpu"
    ):
        prepare("tfds:mnist", tmp_path)


def test_sizes_and_checksums_are_those_that_tfds_publishes():
    folder = Path(tensorflow_datasets.__file__).parent
    published = set()
    for lists in (folder / "url_checksums").glob("*.txt"), (folder / "datasets").rglob("checksums.tsv"):
        for path in lists:
            published |= {tuple(line.split("\t")[1:3]) for line in path.read_text().splitlines()}
    archives = [archive for data_set in DATA_SETS.values() for archive in data_set.archives]
    unknown = {archive.name for archive in archives if archive.exact} - {
        archive.name
        for archive in archives
        if (str(archive.size), archive.checksum.removeprefix("sha256:")) in published
    }
    assert not unknown
    assert {archive.name for archive in archives if not archive.checksum} == {
        "waterbird_complete95_forest2water2.tar.gz"
    }
    for archive in archives:
        assert re.fullmatch(r"(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})?", archive.checksum) and archive.makes
