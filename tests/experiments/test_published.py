"""The paper's figures as they were typed."""

import pytest
from published import IN_THE_TEXT, TABLES, Figure


def test_every_table_of_the_paper_is_there():
    assert list(TABLES) == ["1", "2", "3", "4", "5", "6", "7", *(f"A{i}" for i in range(1, 10))]


@pytest.mark.parametrize(
    ("number", "row", "column", "figure"),
    [
        ("1", ("DenseNet-121",), "ours", Figure(8.03)),
        ("2", ("CUB", "EN"), "standard", Figure(-0.033)),
        ("3", ("COCO", "EN"), "FGSM (ours)", Figure(0.3063)),
        ("3", ("Wood", "CN"), "clean", Figure(0.721, 0.030)),
        ("4", ("FGSM-AT", "PRN18"), "PGD50", Figure(0.476)),
        ("5", ("FLC Pooling",), "clean", Figure(0.525, 0.022)),
        ("6", ("ImageNet", "ImageNet-C", "RN"), "ours", Figure(0.535)),
        ("7", ("yes", "no", "yes"), "accuracy", Figure(0.532)),
        ("A1", ("Oxford", "RN"), "ours", Figure(0.542)),
        ("A2", ("CUB", "RN"), "ours", Figure(0.005)),
        ("A3", ("ImageNet", "VG"), "standard", Figure(0.279)),
        ("A4", ("COCO", "CN"), "ours", Figure(0.361)),
        ("A5", ("ResNet34",), "PGD50", Figure(0.2989, 0.1181)),
        ("A6", ("RaWideResNet-70-16 + ours",), "clean", Figure(0.953)),
        ("A7", ("last", "0.1"), "ERF corner", Figure(0.113)),
        ("A8", ("ours, k = 2048", "1.0"), "sparsity", Figure(0.193)),
        ("A9", ("ours", "1.0"), "FGSM", Figure(0.21)),
    ],
)
def test_a_figure_of_each_table(number, row, column, figure):
    assert TABLES[number].rows[row][column] == figure


def test_the_text_beside_table_4():
    assert IN_THE_TEXT["Square"].value == 0.3426


def test_what_the_paper_leaves_out_is_not_there():
    assert "PGD20" not in TABLES["4"].rows["FGSM-AT", "PRN18"]


def test_shares_lie_between_0_and_1():
    for table in TABLES.values():
        if table.unit == "share":
            assert all(0 <= figure.value <= 1 for row in table.rows.values() for figure in row.values())


def test_distances_are_differences_of_center_and_corner():
    """Tables 2, A1 and A2 were typed apart: they fit each other but for rounding."""
    for row, columns in TABLES["2"].rows.items():
        for column, figure in columns.items():
            center, corner = (TABLES[number].rows[row][column].value for number in ("A1", "A2"))
            assert figure.value == pytest.approx(center - corner, abs=0.0016), (row, column)


def test_averages_are_those_of_the_rows():
    for number in ("A1", "A2"):
        rows = dict(TABLES[number].rows)
        average = rows.pop(("Average", "-"))
        for column, figure in average.items():
            mean = sum(row[column].value for row in rows.values()) / len(rows)
            assert figure.value == pytest.approx(mean, abs=0.001), (number, column)
