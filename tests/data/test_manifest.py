"""Manifests of real pictures: columns, splits, groups, masks, boxes, and rows that cannot be used."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from topgap_jax.data.sources import load_source

ROWS = [
    ("a.png", "cat", "train", "lab 10", "10 20 40 50"),
    ("b.png", "coin", "train", "lab 9", "0 0 60 80"),
    ("c.png", "cat", "train", "lab 9", "5 5 6 7.5"),
    ("d.png", "coin", "train", "lab 9", "1,2,3,4"),
    ("e.png", "cat", "test", "lab 11", "0 0 1 1"),
]
COLUMNS = ("file", "label", "split", "group", "box")


@pytest.fixture
def root(tmp_path):
    """The pictures lie in a folder beside the manifest, each with a mask."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "masks").mkdir()
    for name, label, *_ in ROWS:
        photograph = (data.chelsea() if label == "cat" else np.dstack([data.coins()] * 3))[:60, :80]
        Image.fromarray(photograph).save(tmp_path / "pictures" / name)
        Image.fromarray(photograph[..., 0] > 100).save(tmp_path / "masks" / name)
    return tmp_path


def rows(*changes, columns=COLUMNS):
    """The table as dicts; each change is a row number, a column and its new value."""
    table = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    for row in table:
        row["mask"] = f"masks/{row['file']}"
        row["file"] = f"pictures/{row['file']}"
    for number, column, value in changes:
        table[number][column] = value
    return [{name: row[name] for name in columns} for row in table]


def write_csv(path, table, delimiter=",", encoding="utf-8"):
    lines = [delimiter.join(table[0])]
    for row in table:
        lines.append(delimiter.join(f'"{value}"' if "," in value else value for value in row.values()))
    path.write_text("\n".join(lines) + "\n", encoding)


def write_jsonl(path, table):
    path.write_text("\n".join(json.dumps(row) for row in table) + "\n\n")


@pytest.mark.parametrize("kind", ["csv", "semicolon", "tab", "jsonl", "folder", "folder of jsonl"])
def test_every_way_to_write_a_manifest_reads_the_same(root, kind):
    table, name = rows(columns=(*COLUMNS, "mask")), f"folder:{root}"
    if kind == "jsonl" or kind == "folder of jsonl":
        table[0]["box"] = [10, 20, 40, 50]
        write_jsonl(root / "manifest.jsonl", table)
        name += "/manifest.jsonl" if kind == "jsonl" else ""
    elif kind == "folder":
        write_csv(root / "manifest.csv", table)
    else:
        delimiter = {"csv": ",", "semicolon": ";", "tab": "\t"}[kind]
        write_csv(root / "mine.CSV", table, delimiter, encoding="utf-8-sig")  # as spreadsheets do
        name += "/mine.CSV"
    source = load_source(name, "train")
    assert source.class_names == ["cat", "coin"] and source.labels.tolist() == [0, 1, 0, 1]
    assert source.group_names == ["lab 9", "lab 10", "lab 11"] and source.groups.tolist() == [1, 0, 0, 0]
    example = source[0]
    assert set(example) == {"image", "label", "mask", "box", "group"} and example["group"].dtype == np.int32
    np.testing.assert_array_equal(example["mask"], example["image"][..., 0] > 100)
    np.testing.assert_array_equal(example["box"], [10, 20, 40, 50])
    np.testing.assert_array_equal(load_source(name, "train", size=30)[0]["box"], [5, 5, 20, 20])
    assert load_source(name, "test").groups.tolist() == [2]


def test_file_and_label_are_enough(root):
    write_csv(root / "manifest.csv", rows(columns=("file", "label", "split")))
    source = load_source(f"folder:{root}", "train")
    assert set(source[0]) == {"image", "label"} and source.groups is None and source.group_names == []


def test_without_a_split_column_fractions_divide_the_rows(root):
    write_csv(root / "manifest.csv", rows(columns=("file", "label")))
    with pytest.raises(ValueError, match="has no column split; add it, or give split_fractions="):
        load_source(f"folder:{root}", "train")
    parts = [
        load_source(f"folder:{root}", split, split_fractions=(0.5, 0, 0.5)).paths
        for split in ("train", "test")
    ]
    assert len(parts[0]) + len(parts[1]) == 5 and not set(parts[0]) & set(parts[1])
    write_csv(root / "manifest.csv", rows())
    with pytest.raises(ValueError, match="has a column split; leave out split_fractions, or the column"):
        load_source(f"folder:{root}", "train", split_fractions=(0.5, 0, 0.5))


def test_unusable_rows_are_reported_together(root):
    changes = [
        (0, "label", "dog"),
        (1, "box", "1 2 3"),
        (2, "box", "50 5 6 7"),
        (3, "group", ""),
        (3, "file", "pictures/gone.png"),
    ]
    table = rows(*changes)
    write_csv(root / "manifest.csv", [*table, table[1] | {"box": "0 0 99 99"}])
    with pytest.raises(ValueError) as error:
        load_source(f"folder:{root}", "train", class_names=["cat", "coin"])
    message = str(error.value)
    for part in (
        "row 1 (pictures/a.png) has the label 'dog', which is none of the classes",
        "row 2 (pictures/b.png) has the box '1 2 3'; expected top left bottom right",
        "row 3 (pictures/c.png) has the box '50 5 6 7'",
        "row 4 (pictures/gone.png) has no group, but others have",
        "pictures/gone.png does not exist",
        "row 6 (pictures/b.png) lists a file that row 2 lists too",
        "b.png is 60x80, its box (top left bottom right) is [0.0, 0.0, 99.0, 99.0]",
    ):
        assert part in message


def test_skipping_leaves_out_the_rows_that_cannot_be_used(root):
    write_csv(root / "manifest.csv", rows((0, "label", "dog"), (3, "box", "none")))
    with pytest.warns(UserWarning, match="2 of 4 pictures are skipped: unknown label .1., unusable box .1."):
        source = load_source(f"folder:{root}", "train", class_names=["cat", "coin"], on_error="skip")
    assert source.skipped == {"unknown label": 1, "unusable box": 1}
    assert [path.name for path in source.paths] == ["b.png", "c.png"] and source.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(source[1]["box"], np.float32([5, 5, 6, 7.5]))


def test_a_mask_that_is_missing_or_unsuitable_is_named(root):
    table = rows((0, "mask", ""), (1, "mask", "masks/a.jpg"), columns=(*COLUMNS, "mask"))
    Image.fromarray(data.coins()[:60, :80]).save(root / "masks" / "a.jpg")
    Image.fromarray(data.coins()[:61, :80] > 90).save(root / "masks" / "c.png")
    write_csv(root / "manifest.csv", table)
    with pytest.raises(
        ValueError,
        match=r"(?s)a.png has no mask, but .*a.jpg is a mask stored as JPEG.*"
        r"c.png is 61x80, its picture .*c.png is 60x80",
    ):
        load_source(f"folder:{root}", "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows; expected the columns file and label"),
        ("file,class\na.png,x\n", "has no column 'label'; there are file, class"),
        ("file,label,split\na.png,x,dev\n", "no split 'train'; there are dev"),
    ],
)
def test_tables_that_are_no_manifests_are_refused(root, text, message):
    (root / "manifest.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_source(f"folder:{root}", "train")


def test_unreadable_manifests_are_named(root):
    (root / "bad.jsonl").write_text("{no json}\n")
    with pytest.raises(ValueError, match=r"bad.jsonl cannot be read: "):
        load_source(f"folder:{root}/bad.jsonl", "train")
    with pytest.raises(ValueError, match=r"gone.csv cannot be read: .*No such file"):
        load_source(f"folder:{root}/gone.csv", "train")
    (root / "list.jsonl").write_text("[1, 2]\n")
    with pytest.raises(ValueError, match=r"list.jsonl has no rows"):
        load_source(f"folder:{root}/list.jsonl", "train")
