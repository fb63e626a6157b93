import io
import json

import pytest
from rich.console import Console

from reports.page import Page
from topgap_jax.reports.sweep import headline, print_sweep, write_sweep_report
from topgap_jax.reports.sweep_charts import charts
from topgap_jax.reports.sweep_lines import below_chosen, columns, interval_text, sweep_lines, validated
from topgap_jax.training.fold_figures import summarise
from topgap_jax.training.sweep_figures import RULE, choose, compare_with

VALIDATION = {16: (0.90, 0.92, 0.91), 48: (0.95, 0.97, 0.96), 128: (0.94, 0.97, 0.95)}


def evaluation(accuracy):
    return {
        "training_seconds": 60.0 + accuracy,
        "training_time": {"compile": 5.0, "device": 50.0},
        "accuracy": [
            {"split": "validation", "value": accuracy, "count": 200},
            {"split": "shifted", "value": 1.8 - accuracy, "count": 400},
            {"split": "shifted", "group": "worst", "name": "3 on grass", "value": 0.5, "count": 9},
        ],
        "attacks": [
            {
                "name": "PGD-50",
                "eps": 16 / 255,
                "norm": "linf",
                "clean_accuracy": accuracy,
                "robust_accuracy": accuracy / 4,
                "prediction_consistency": accuracy / 4 + 0.01,
                "count": 64,
            }
        ],
        "cam": {"sparsity": accuracy / 3, "iou_global": 0.4, "mask_coverage": 0.3, "count": 64},
    }


def part(name, values):
    folders = [f"{name},seed={seed}" for seed in range(len(values))] if len(values) > 1 else [name]
    return {"folders": folders, "figures": summarise([[evaluation(value) for value in values]], ratio=0.0)}


def sweep(seeds=1, twin=True, ks=(16, 48, 128)):
    """What `sweep.json` holds."""
    rows = [{"k": k, "share": k / 144} | part(f"k={k}", VALIDATION[k][:seeds]) for k in ks]
    chosen = choose(rows, "validation")
    for row, below in zip(rows, compare_with(chosen, rows, "validation"), strict=True):
        row["below_chosen"] = below
    return {
        "title": "Top-GAP",
        "seeds": list(range(seeds)),
        "cam_shape": [12, 12],
        "validation": "validation",
        "chosen": chosen,
        "rule": RULE,
        "rows": rows,
        "twin": {"title": "Plain <GAP>"} | part("twin", (0.9, 0.91, 0.92)[:seeds]) if twin else None,
        "source": "embedded",
        "date": "2026-01-01",
        "machine": {"device": "cpu"},
    }


def write(directory, summary):
    (directory / "sweep.json").write_text(json.dumps(summary))
    return Page(write_sweep_report(directory).read_text())


def test_the_page_has_a_column_per_k(tmp_path):
    for folder in ("k=16", "k=48", "k=128", "twin"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "report.html").touch()
    page = write(tmp_path, sweep())
    # 190 of 200: Wilson's interval.
    assert page.row("Accuracy, validation")[1:] == [
        "90.0%85.1 to 93.4",
        "95.0%91.0 to 97.3",
        "94.0%89.8 to 96.5",
        "90.0%85.1 to 93.4",
    ]
    assert page.row("PGD-50 at L∞ 16/255")[2].startswith("23.8%") and page.row("CAM sparsity")[2] == "0.317"
    assert page.row("Worst group, shifted")[1] == "50.0%"
    assert page.row("First step, with compilation")[1] == "5.0 s" and "50.000" not in page.text
    heading = next(row for row in page.rows if len(row) == 5 and "chosen" in row[2])
    assert heading[2] == "chosenk = 4833.3% of the map" and heading[4] == "Plain <GAP>every position"
    assert page.links == [
        "k%3D16/report.html",
        "k%3D48/report.html",
        "k%3D128/report.html",
        "twin/report.html",
    ]
    assert "script" not in page.tags and RULE in page.text
    text = (tmp_path / "report.md").read_text()
    assert "| | k = 16 | **k = 48** | k = 128 | Plain <GAP> |" in text
    assert "| Accuracy, validation | 90.0% (85.1 to 93.4) |" in text


def test_without_twin_and_reports(tmp_path):
    page = write(tmp_path, sweep(twin=False, ks=(48,)))
    assert page.links == [] and "Plain" not in page.text
    assert page.row("Accuracy, shifted")[1].startswith("85.0%")
    assert headline(sweep(ks=(48,))) == (
        "The only k is k = 48, 33.3% of the 12×12 map: 95.0% of the 200 validation pictures.",
    )


def test_one_seed_knows_only_the_sampling_of_the_pictures():
    summary = sweep()
    chosen, tied = headline(summary)
    assert chosen == (
        "Of k = 16, 48 and 128, validation chooses k = 48, 33.3% of the 12×12 map: "
        "95.0% of the 200 validation pictures."
    )
    # Newcombe's method 10 by hand, for 190 against 180 of 200.
    assert below_chosen(summary["rows"][0], summary).interval == pytest.approx((-0.0024, 0.1043), abs=1e-4)
    assert "cannot be told apart from k = 16 (5.0 points less, 95%: −0.2 to +10.4)" in tied
    assert "k = 128 (1.0 points less" in tied


def test_seeds_are_compared_in_pairs(tmp_path):
    summary = sweep(seeds=3)
    chosen, tied = headline(summary)
    assert "96.0 ± 1.0% of the 200 validation pictures over 3 seeds" in chosen
    # Five points in every pair: the deviation between seeds cancels.
    assert below_chosen(summary["rows"][0], summary).interval == pytest.approx((0.05, 0.05))
    assert "k = 128" in tied and "k = 16" not in tied
    page = write(tmp_path, summary)
    assert page.row("Accuracy, validation")[2] == "96.0 ± 1.0%" and "seed by seed" in page.text
    assert interval_text(validated(summary), 0) == ""
    far = sweep(seeds=3, ks=(16, 48))
    assert headline(far)[1] == "Every other k is worse by more than the 95% interval of the difference."


def test_charts_have_every_k_in_its_place():
    summary = sweep(seeds=3)
    shown = columns(summary)
    drawn = charts(sweep_lines(summary), shown, summary)
    assert [chart.title for chart in drawn] == [
        "Accuracy, validation",
        "Accuracy, shifted",
        "Robust accuracy: PGD-50 at L∞ 16/255",
        "CAM sparsity",
        "IoU, global threshold",
    ]
    first = drawn[0]
    assert first.selects and not any(chart.selects for chart in drawn[1:])
    assert [point.run for point in first.points] == [0, 0, 0, 1]
    x = [point.x for point in first.points]
    assert x == sorted(x) and (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(1.585 / 3, abs=0.01)  # log k
    assert first.points[1].chosen and first.points[1].high < first.points[1].y < first.points[1].low
    assert all(len(point.seeds) == 3 for point in first.points)
    assert "k = 48: 96.0 ± 1.0%" in first.description
    assert [tick.label for tick in first.x_ticks] == ["16", "48", "128", "twin"]


def test_the_terminal_says_the_same(tmp_path):
    (tmp_path / "sweep.json").write_text(json.dumps(sweep()))
    console = Console(width=160, record=True, file=io.StringIO())
    print_sweep(tmp_path, console)
    text = console.export_text()
    assert "validation chooses k = 48" in text and "k = 48*" in text
    assert [line.split()[-4:] for line in text.splitlines() if line.startswith("Accuracy, validation")] == [
        ["90.0%", "95.0%", "94.0%", "90.0%"]
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, FileNotFoundError, r"sweep\.json is missing: it is written once every k is finished"),
        ('{"title": [', ValueError, "is not complete JSON"),
        ('{"title": "a"}', ValueError, "lacks seeds, cam_shape, validation, chosen, rows"),
    ],
)
def test_a_file_that_is_missing_or_wrong_is_named(text, error, message, tmp_path):
    if text is not None:
        (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(error, match=message):
        write_sweep_report(tmp_path)
