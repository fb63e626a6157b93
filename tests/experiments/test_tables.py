"""The arithmetic of tables, on made-up result lines."""

import pytest
from tables import (
    Beside,
    Column,
    change,
    difference,
    differences_table,
    mean_of,
    methods_table,
    paper_table,
    spread,
)


def line(method, number, **figures):
    return {"method": method, "number": number, "evaluation": "attacked", "figures": figures}


LINES = [
    line("plain", 0, clean=0.90, robust=0.10),
    line("plain", 1, clean=0.92, robust=0.10),
    line("plain", 2, clean=0.94, robust=0.10),
    line("ours", 2, clean=0.95, robust=0.40),
    line("ours", 0, clean=0.93, robust=0.20),
]
COLUMNS = (Column("Clean", "clean"), Column("Robust", "robust"))


def test_mean_and_sample_deviation():
    entry = mean_of(LINES, "plain", "clean")
    assert (entry["mean"], entry["sd"]) == (pytest.approx(0.92), pytest.approx(0.02))


def test_differences_are_paired_by_seed():
    entry = difference(LINES, "ours", "plain", "clean")
    assert entry["values"] == pytest.approx(
        [0.03, 0.01]
    )  # seeds 0 and 2, though the lines come in another order
    assert entry["mean"] == pytest.approx(0.02)


def test_interval_of_the_difference_is_students():
    entry = difference(LINES, "ours", "plain", "clean")
    reach = 12.7062 * 0.0141421 / 2**0.5  # t with one degree of freedom, sd of two, n = 2
    assert entry["interval"] == pytest.approx([0.02 - reach, 0.02 + reach], rel=1e-4)


def test_one_seed_has_no_deviation():
    one = [LINES[0]]
    assert mean_of(one, "plain", "clean")["sd"] is None
    assert methods_table(one, ["plain"], COLUMNS).splitlines()[2] == "| plain | 90.0 | 10.0 | 1 |"


def test_methods_side_by_side():
    assert methods_table(LINES, ["plain", "ours", "absent"], COLUMNS).splitlines() == [
        "|  | Clean | Robust | n |",
        "| --- | ---: | ---: | ---: |",
        "| plain | 92.0 ± 2.0 | 10.0 ± 0.0 | 3 |",
        "| ours | 94.0 ± 1.4 | 30.0 ± 14.1 | 2 |",
        "| absent | – | – | 0 |",
    ]


def test_the_baseline_is_not_compared_with_itself():
    rows = differences_table(LINES, ["plain", "ours"], "plain", COLUMNS).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| ours"]
    assert "+20.0 (" in rows[2]


def test_paper_beside_ours():
    rows = [
        Beside(("COCO", "FGSM"), mean_of(LINES, "plain", "clean"), (0.95, 0.01)),
        Beside(("CUB", "FGSM"), None, (0.5, None)),
    ]
    assert paper_table(("data set", "figure"), rows).splitlines()[2:] == [
        "| COCO | FGSM | 92.0 ± 2.0 | 95.0 ± 1.0 | −3.0 |",
        "| CUB | FGSM | – | 50.0 | – |",
    ]


def test_numbers_as_they_are_read():
    assert spread({"mean": 1234.6, "sd": None}, "seconds") == "1,235"
    assert spread({"mean": 0.1234, "sd": 0.01}, "fraction") == "0.123 ± 0.010"
    assert change({"mean": -0.0001, "interval": None}, "share") == "0.0"
