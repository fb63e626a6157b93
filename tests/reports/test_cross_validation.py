import json

import pytest
from rich.console import Console

from reports.page import Page
from topgap_jax.reports.cross_validation import print_cross_validation, write_cross_validation_report
from topgap_jax.reports.fold_charts import LANES, strips
from topgap_jax.reports.fold_lines import Spread, difference_text, lines, spread_text
from topgap_jax.training.fold_figures import summarise

ACCURACY = {"Top-GAP": (0.90, 0.95, 0.97), "Plain GAP": (0.86, 0.92, 0.92)}


def evaluation(title, accuracy):
    attacks = [
        {
            "name": name,
            "eps": 8 / 255,
            "norm": "linf",
            "clean_accuracy": accuracy,
            "robust_accuracy": accuracy * left,
            "prediction_consistency": accuracy * left + 0.01,
            "count": 64,
        }
        for name, left in (("FGSM", 0.6), ("PGD-50", 0.25))
    ]
    return {
        "title": title,
        "training_seconds": 60.0 + accuracy,
        "accuracy": [
            {"split": "test_fold", "value": accuracy, "count": 100},
            {"split": "test_fold", "group": "worst", "name": "b", "value": accuracy / 2, "count": 9},
        ],
        "attacks": attacks,
        "cam": {"sparsity": accuracy / 3, "energy_in_mask": 0.5, "mask_coverage": 0.3, "count": 64},
    }


def summary(*titles):
    runs = [[evaluation(title, accuracy) for accuracy in ACCURACY[title]] for title in titles]
    return {
        "titles": list(titles),
        "folds": 3,
        "examples": 300,
        "source": "npz:data/cells.npz",
        "split": "all",
        "sizes": [{"train": 180, "validation": 20, "test": 100}] * 3,
        "seeds": [0, 1, 2],
        "machines": [{"device": "cpu", "cores": 2}],
        "date": "2026-01-01",
        "figures": summarise(runs, ratio=0.5),
    }


@pytest.fixture(params=[("Top-GAP", "Plain GAP"), ("Top-GAP",)])
def workdir(request, tmp_path):
    (tmp_path / "cross_validation.json").write_text(json.dumps(summary(*request.param)))
    return tmp_path


def test_the_page_shows_the_figures_of_the_file(workdir):
    page = Page(write_cross_validation_report(workdir).read_text())
    both = "Plain GAP" in page.text
    row = page.row("Accuracy, test fold")
    assert row[1] == "94.0 ± 3.6%"
    if both:
        assert row[2] == "90.0 ± 3.5%" and row[3].startswith("+4.0 ± 1.0 points")
    assert page.row("PGD-50 at L∞ 8/255")[1] == "23.5 ± 0.9%"
    assert page.row("CAM sparsity")[1] == "0.313 ± 0.012"
    assert page.row("Fold 1")[1:4] == ["180", "20", "100"] and "95.0%" in page.row("Fold 1")[4]
    assert page.links == [f"fold_{fold}/report.html" for fold in range(3)]
    assert "script" not in page.tags and "img" not in page.tags
    assert page.tags.count("circle") == 3 * len(strips(lines(summary("Top-GAP")["figures"]), ["Top-GAP"]))
    assert "npz:data/cells.npz, all" in page.text and "0, 1, 2" in page.text


def test_markdown_and_terminal_show_the_same(workdir):
    write_cross_validation_report(workdir)
    markdown = (workdir / "report.md").read_text()
    with Console(width=120, record=True) as console:
        print_cross_validation(workdir, console)
    terminal = console.export_text()
    for text in ("94.0 ± 3.6%", "FGSM at L∞ 8/255", "Over 3 folds of 300 pictures"):
        assert text in markdown and text in terminal
    widths = {line.count("|") for line in markdown.splitlines() if line.startswith("| Accuracy")}
    assert widths == {6 if "Plain GAP" in markdown else 3}
    assert "[2](fold_2/report.html)" in markdown
    assert "{" not in markdown


def test_the_words_follow_the_interval(tmp_path):
    path = tmp_path / "cross_validation.json"
    found = summary("Top-GAP", "Plain GAP")
    path.write_text(json.dumps(found))
    text = Page(write_cross_validation_report(tmp_path).read_text()).text
    low, high = found["figures"][1]["difference"]["interval"]
    assert low > 0 and "+4.0 ± 1.0 points, above zero by more than the folds' deviation explains" in text
    found["figures"][1]["difference"]["interval"] = [low - 0.05, high]
    path.write_text(json.dumps(found))
    text = Page(write_cross_validation_report(tmp_path).read_text()).text
    assert "+4.0 ± 1.0 points: no more than the folds' deviation explains" in text


def test_lines_stand_in_reading_order():
    table = lines(summary("Top-GAP", "Plain GAP")["figures"])
    assert [(line.section, line.name) for line in table] == [
        ("Clean accuracy", "Accuracy, test fold"),
        ("Clean accuracy", "Worst group, test fold"),
        ("Robust accuracy", "No attack, same pictures"),
        ("Robust accuracy", "FGSM at L∞ 8/255"),
        ("Robust accuracy", "PGD-50 at L∞ 8/255"),
        ("Prediction consistency", "FGSM at L∞ 8/255"),
        ("Prediction consistency", "PGD-50 at L∞ 8/255"),
        ("Heat maps", "CAM sparsity"),
        ("Heat maps", "Energy in mask"),
        ("Heat maps", "Mask coverage"),
        ("Cost", "Training"),
    ]
    assert table[-2].difference is None and table[0].counts == (100, 100, 100)


def test_figures_of_unknown_sections_are_shown_under_their_own_names():
    found = {
        "section": "corruptions",
        "name": "fog",
        "severity": 1,
        "figure": "mean_accuracy",
        "counts": [9, 9],
    }
    run = {"mean": 0.5, "sd": 0.1, "values": [0.4, 0.6]}
    (line,) = lines([found | {"runs": [run]}])
    assert (line.section, line.name) == ("Corruptions", "Mean accuracy, fog, 1")


def test_a_strip_has_every_fold_in_its_place():
    table = lines(summary("Top-GAP", "Plain GAP")["figures"])
    strip = strips(table, ["Top-GAP", "Plain GAP"])[0]
    own, twin = strip.lanes
    assert [dot.x for dot in own.dots] == sorted(dot.x for dot in own.dots)
    assert own.dots[0].x < own.mean < own.dots[2].x and own.low < own.mean < own.high
    assert strip.pairs[0] == (own.dots[0].x, LANES[0], twin.dots[0].x, LANES[1])
    scale = (own.dots[1].x - own.dots[0].x) / 0.05
    assert twin.dots[0].x == pytest.approx(own.dots[0].x - 0.04 * scale, abs=0.3)
    assert all(0 <= tick.position <= 440 for tick in strip.ticks)
    assert "Plain GAP: 86.0%, 92.0%, 92.0%." in strip.description


def test_folds_without_a_value_and_without_deviation():
    assert spread_text(Spread(0.5, None, (0.5,)), "share") == "50.0%"
    assert spread_text(None, "share") == difference_text(None, "share") == "–"
    assert difference_text(Spread(-0.0123, 0.004, ()), "fraction") == "−0.012 ± 0.004"
    assert difference_text(Spread(-0.0001, 0.0, ()), "share") == "0.0 ± 0.0 points"
    found = summary("Top-GAP")["figures"][1]
    found["runs"][0] = {"mean": 1.0, "sd": None, "values": [None, 1.0, None]}
    (strip,) = strips(lines([found]), ["Top-GAP"])
    assert len(strip.lanes[0].dots) == 1 and "–, 100.0%, –" in strip.description


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, "cross_validation.json is missing: it is written once every fold"),
        ('{"titles": [', ValueError, "is not complete JSON"),
        ('{"titles": []}', ValueError, "lacks folds, sizes, figures, examples"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(text, error, message, tmp_path):
    if text is not None:
        (tmp_path / "cross_validation.json").write_text(text)
    with pytest.raises(error, match=message):
        write_cross_validation_report(tmp_path)
