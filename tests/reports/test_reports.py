import base64
import io
import json
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import binomtest

from topgap_jax.reports import comparison_markdown, print_report, write_overview_png, write_report
from topgap_jax.reports.comparison import Figure, compare, format_eps, subtract, wilson_interval
from topgap_jax.reports.runs import read_metrics, read_runs

VOID = {"meta", "img", "br", "link", "input", "circle", "line", "rect", "polyline"}


class Page(HTMLParser):
    """The comparison table, all text, all pictures and all tags of a report."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.tags, self.images, self.cells = [], [], [], []
        self.text, self.table = "", {}
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "img":
            self.images.append(attributes)
        if tag == "tr":
            self.cells = []
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag == "tr" and "thead" not in self.open:
            name, *cells = (cell.strip() for cell in self.cells)
            self.table.setdefault(name, cells)

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
            if self.cells and "table" in self.open:
                self.cells[-1] += " ".join(data.split()) + " "

    def row(self, name: str) -> list[str]:
        return next(cells for title, cells in self.table.items() if title.startswith(name))


def change(path: Path, **values) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | values))


def change_attacks(path: Path, **robust) -> None:
    attacks = json.loads(path.read_text())["attacks"]
    for entry in attacks:
        entry["robust_accuracy"] = robust.get(
            entry["name"].split()[0].split("-")[0], entry["robust_accuracy"]
        )
    change(path, attacks=attacks)


def report(workdir: Path) -> dict:
    write_report(workdir)
    return json.loads((workdir / "report.json").read_text())


def test_the_page_shows_the_figures_of_the_files(twins):
    own = [{"split": "in_distribution", "value": 0.91234, "count": 1000}]
    twin = [{"split": "in_distribution", "value": 0.87654, "count": 1000}]
    change(twins / "evaluation.json", accuracy=own, parameters=1234567)
    change(twins / "twin" / "evaluation.json", accuracy=twin, parameters=1200000)
    page = Page(write_report(twins))
    first, second, difference = page.row("Accuracy, in distribution")
    assert first.startswith("91.2%") and second.startswith("87.7%") and difference.startswith("+3.6 points")
    assert page.row("Parameters") == ["1,234,567", "1,200,000", "+34,567"]
    assert "Top-GAP scores 91.2% in distribution, 3.6 points above plain GAP (more than" in page.text


def test_every_attack_has_both_figures_under_their_names(twins):
    page = Page(write_report(twins))
    titles = list(page.table)
    robust, consistent = (
        next(i for i, title in enumerate(titles) if title.startswith(name))
        for name in ("Robust accuracy", "Prediction consistency")
    )
    assert robust < consistent
    rows = {row["section"]: [] for row in report(twins)["comparison"]}
    for row in report(twins)["comparison"]:
        rows[row["section"]].append((row["name"], row["figures"]["Top-GAP"]["value"]))
    attacks = json.loads((twins / "evaluation.json").read_text())["attacks"]
    assert [value for _, value in rows["Robust accuracy"][1:]] == [a["robust_accuracy"] for a in attacks]
    assert [value for _, value in rows["Prediction consistency"]] == [
        a["prediction_consistency"] for a in attacks
    ]
    assert rows["Robust accuracy"][1][0] == "FGSM at L∞ 8/255"


def test_differences_are_own_minus_twin(twins):
    for row in report(twins)["comparison"]:
        own, twin = row["figures"].values()
        assert row["difference"]["value"] == pytest.approx(own["value"] - twin["value"], abs=1e-12)
    sparsity = next(row for row in report(twins)["comparison"] if row["name"] == "CAM sparsity")
    low, high = sparsity["difference"]["interval"]
    half = 1.96 * (0.001**2 + 0.001**2) ** 0.5
    assert (low, high) == pytest.approx(
        (sparsity["difference"]["value"] - half, sparsity["difference"]["value"] + half), rel=1e-3
    )


def test_the_page_stands_alone(twins):
    path = write_report(twins)
    page, source = Page(path), path.read_text(encoding="utf-8")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object"}
    assert "url(" not in source and "@import" not in source and "http://" not in source
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "href" for name in attributes), (tag, attributes)
    sizes = set()
    for image in page.images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/png;base64" and image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            sizes.add(picture.size)
    assert len(page.images) == 8 * 4 and sizes == {(192, 192)}


def test_headings_go_down_one_level_at_a_time(twins):
    levels = [int(tag[1]) for tag, _ in Page(write_report(twins)).tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_cards_tell_right_from_wrong_in_words(twins):
    with np.load(twins / "examples.npz") as archive:
        arrays = dict(archive)
    arrays["predictions"] = arrays["labels"].copy()
    arrays["predictions"][2] = 7
    np.savez(twins / "examples.npz", **arrays)
    np.savez(twins / "twin" / "examples.npz", **arrays)
    page = Page(write_report(twins))
    text = page.text
    assert text.count("✓ right") == 14 and text.count("✗ wrong") == 2
    assert f"says 7, {arrays['probabilities'][2]:.0%}" in text


def test_alt_texts_measure_the_heat_on_the_object(twins):
    with np.load(twins / "examples.npz") as archive:
        heat, mask = archive["heat"][0], archive["masks"][0]
    share = (heat * mask).sum() / heat.sum()
    alts = [image["alt"] for image in Page(write_report(twins)).images]
    assert alts[2] == f"Heat map of Top-GAP: {share * 100:.1f}% of the heat on the object"


def test_a_run_without_a_twin(single):
    page = Page(write_report(single))
    result = json.loads((single / "report.json").read_text())
    assert len(result["runs"]) == 1 and all(row["difference"] is None for row in result["comparison"])
    assert len(page.images) == 8 * 3
    assert "Difference" not in page.text and "against" not in page.text and "plain GAP" not in page.text
    assert page.row("Accuracy, in distribution")[0].startswith("96.9%")
    assert "| 96.9% | 96.1 to 97.6 |" in comparison_markdown(single)


def test_without_masks_nothing_is_claimed_about_objects(twins):
    for directory in (twins, twins / "twin"):
        with np.load(directory / "examples.npz") as archive:
            arrays = {name: value for name, value in archive.items() if name not in ("masks", "split")}
        np.savez(directory / "examples.npz", **arrays)
        change(directory / "evaluation.json", cam={"sparsity": 0.2, "count": 100})
    page = Page(write_report(twins))
    assert len(page.images) == 8 * 3 and "outline" not in page.text
    assert not any(title.startswith(("IoU", "Energy", "Pointing")) for title in page.table)
    assert not any("heat on the object" in sentence for sentence in report(twins)["headline"])


def test_grey_pictures_that_are_not_square(single):
    with np.load(single / "examples.npz") as archive:
        arrays = dict(archive)
    arrays["images"] = arrays["images"][:, :30, :40, :1]
    arrays["masks"], arrays["heat"] = arrays["masks"][:, :30, :40], arrays["heat"][:, :30, :40]
    np.savez(single / "examples.npz", **arrays)
    page = Page(write_report(single))
    content = page.images[0]["src"].partition(",")[2]
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (160, 120)  # a whole factor: every pixel a square
    write_overview_png(single, single / "overview.png")


def test_names_from_the_files_are_escaped(single):
    change(single / "evaluation.json", title="<b>bold</b> [red]net[/red]")
    page = Page(write_report(single))
    assert "b" not in {tag for tag, _ in page.tags}
    assert "<b>bold</b> [red]net[/red]" in page.text
    console = Console(record=True, width=140, file=io.StringIO())
    print_report(single, console)
    text = console.export_text()
    assert "<b>bold</b> [red]net[/red] scores" in text and "95%" in text


def test_nan_in_an_evaluation_becomes_a_dash(twins):
    cam = json.loads((twins / "evaluation.json").read_text())["cam"] | {"iou_global": float("nan")}
    change(twins / "evaluation.json", cam=cam)
    page = Page(write_report(twins))
    first, second, difference = page.row("IoU, global threshold")
    assert first.startswith("–") and second.startswith("0.440") and difference.startswith("–")
    assert json.loads((twins / "report.json").read_text())["runs"][0]["cam"]["iou_global"] is None


# What the words say depends on the figures.


def test_the_headline_turns_with_the_figures(twins):
    change(twins / "evaluation.json", accuracy=[{"split": "in_distribution", "value": 0.9, "count": 100}])
    for value, words in ((0.95, "5.0 points below plain GAP (within"), (0.9, "level with plain GAP")):
        twin = [{"split": "in_distribution", "value": value, "count": 100}]
        change(twins / "twin" / "evaluation.json", accuracy=twin)
        assert words in report(twins)["headline"][0]


def test_the_strongest_attack_is_the_one_quoted(twins):
    change_attacks(twins / "evaluation.json", FGSM=0.31, PGD=0.4)
    headline = report(twins)["headline"]
    assert any("FGSM" in sentence and "Top-GAP 31.0%" in sentence for sentence in headline)


def test_fgsm_stronger_than_every_pgd_is_an_alarm(twins):
    change_attacks(twins / "evaluation.json", FGSM=0.2, PGD=0.4)
    alarms = [finding for finding in report(twins)["findings"] if finding["level"] == "alarm"]
    assert [alarm["title"] for alarm in alarms] == ["FGSM is stronger than PGD on Top-GAP"]
    assert "20.0%" in alarms[0]["text"] and "40.0%" in alarms[0]["text"]
    assert "▲ alarm" in Page(twins / "report.html").text


def test_no_warning_where_pgd_is_the_stronger_one(twins):
    for directory in (twins, twins / "twin"):
        change_attacks(directory / "evaluation.json", FGSM=0.105, PGD=0.1)
    assert {finding["level"] for finding in report(twins)["findings"]} == {"reading"}


def test_an_under_stepped_attack_is_named_with_its_reach(twins):
    caution = next(
        f for f in report(twins)["findings"] if f["title"].startswith("FGSM is stronger than PGD-20")
    )
    assert caution["level"] == "caution" and "0.67 eps, short of the edge" in caution["text"]


def test_the_settings_that_differ_are_listed(twins):
    finding = next(f for f in report(twins)["findings"] if f["title"] == "What is being compared")
    assert finding["text"].startswith(
        "The configurations differ in model.pool (topk against mean). Top-GAP has"
    )


def test_no_attacks_no_words_about_them(twins):
    for directory in (twins, twins / "twin"):
        change(directory / "evaluation.json", attacks=[])
    result = report(twins)
    assert not any("robust" in sentence for sentence in result["headline"])
    assert not any("ttack" in finding["title"] for finding in result["findings"])


# Intervals.


@pytest.mark.parametrize("hits,count", [(0, 20), (1, 20), (960, 1000), (2000, 2000), (7, 13)])
def test_wilson_is_scipys(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_difference_interval_is_newcombes_example():
    # Newcombe, 1998, table II, method 10, example (a): 56/70 - 48/80 = 0.2, interval 0.0524 to 0.3339.
    figures = [Figure(k / n, n, wilson_interval(k / n, n)) for k, n in ((56, 70), (48, 80))]
    assert subtract(*figures).interval == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    "eps,text", [(8 / 255, "8/255"), (0.0313, "8/255"), (0.5, "0.5"), (1.0, "1"), (0.001, "0.001")]
)
def test_eps_is_written_as_people_know_it(eps, text):
    assert format_eps(eps) == text


# Metrics files.


def test_a_half_written_last_line_is_ignored(twins):
    path = twins / "metrics.jsonl"
    whole = read_metrics(path)
    with path.open("a") as file:
        file.write('{"kind": "train", "step": 2000, "los')
    assert read_metrics(path) == whole
    path.write_text(path.read_text() + "\n" + json.dumps(whole[-1]) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line \d+ is not a metrics record"):
        write_report(twins)


def test_a_step_run_twice_counts_once(tmp_path):
    lines = [
        {"kind": "train", "step": step, "epoch": step, "loss": loss}
        for step, loss in ((1, 9), (2, 9), (2, 5))
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line["loss"] for line in read_metrics(path)] == [9, 5]


def test_the_curves_end_at_the_last_values(twins):
    last = read_runs(twins)[0].metrics[-1]
    charts = [
        a["aria-label"] for tag, a in Page(write_report(twins)).tags if tag == "svg" and "aria-label" in a
    ]
    assert len(charts) == 4
    assert f"Top-GAP eval {last['cross_entropy']:.3f}" in charts[1]


def test_a_long_run_keeps_the_page_small(twins):
    lines = [
        {
            "kind": "train",
            "step": step,
            "epoch": step / 1000,
            "loss": 1.0,
            "cross_entropy": 1.0,
            "l1": 0.1,
            "accuracy": 0.5,
        }
        for step in range(20_000)
    ]
    short = write_report(twins).stat().st_size
    (twins / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert write_report(twins).stat().st_size < short + 20_000


# Missing and broken files.


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "evaluation.json", "examples.npz"])
@pytest.mark.parametrize("folder", [".", "twin"])
def test_a_missing_file_is_named(twins, folder, name):
    (twins / folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name) as caught:
        write_report(twins)
    assert ("twin" in str(caught.value)) == (folder == "twin")
    assert not (twins / "report.html").exists()


@pytest.mark.parametrize("name", ["config.json", "evaluation.json", "examples.npz"])
def test_a_half_file_is_named(twins, name):
    content = (twins / name).read_bytes()
    (twins / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name} is not (a )?complete"):
        write_report(twins)


def test_missing_fields_are_named(twins):
    path = twins / "evaluation.json"
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({name: value for name, value in content.items() if name not in ("cam", "attacks")})
    )
    with pytest.raises(ValueError, match=r"evaluation\.json lacks attacks, cam"):
        write_report(twins)
    path.write_text(json.dumps(content | {"accuracy": [{"split": "shifted", "value": 97.0, "count": 10}]}))
    with pytest.raises(ValueError, match=r"share in .*97"):
        write_report(twins)
    path.write_text(json.dumps(content | {"attacks": [{"name": "FGSM", "eps": 0.1}]}))
    with pytest.raises(ValueError, match="lacks norm, robust_accuracy, count"):
        write_report(twins)


def test_arrays_that_do_not_fit_are_named(twins):
    with np.load(twins / "examples.npz") as archive:
        arrays = dict(archive)
    np.savez(twins / "examples.npz", **(arrays | {"heat": arrays["heat"][:, :40]}))
    with pytest.raises(ValueError, match=r"heat must have the shape \(10, 48, 48\)"):
        write_report(twins)
    np.savez(twins / "examples.npz", **{name: value for name, value in arrays.items() if name != "heat"})
    with pytest.raises(ValueError, match=r"examples\.npz lacks the arrays heat"):
        write_report(twins)


def test_twins_must_show_the_same_pictures(twins):
    with np.load(twins / "twin" / "examples.npz") as archive:
        arrays = dict(archive)
    np.savez(twins / "twin" / "examples.npz", **(arrays | {"images": arrays["images"][::-1]}))
    with pytest.raises(ValueError, match="shows other pictures"):
        write_report(twins)


# Markdown, terminal, overview.


def test_markdown_has_a_cell_for_every_figure(twins):
    lines = comparison_markdown(twins).strip().split("\n")
    assert lines[0] == "| | Top-GAP | plain GAP | Difference | 95% |"
    assert {line.count("|") for line in lines} == {6}
    rows = compare(read_runs(twins))
    assert len(lines) == 2 + len(rows) + len({row.section for row in rows})
    assert "| FGSM at L∞ 8/255 | 27.0% | 21.0% | +6.0 points | −1.4 to +13.3 |" in lines


def test_the_terminal_table(twins):
    console = Console(record=True, width=140, file=io.StringIO())
    print_report(twins, console)
    text = console.export_text()
    assert "Top-GAP scores 96.9% in distribution" in text
    line = next(line for line in text.split("\n") if line.startswith("Accuracy, shifted"))
    assert line.split()[2:6] == ["92.9%", "92.5%", "+0.4", "points"]
    assert "CAUTION: FGSM is stronger than PGD-20" in text and "Reading the heat maps" not in text


def test_the_overview_is_1200_pixels_wide(twins, tmp_path):
    heights = []
    for workdir in (twins, twins / "twin"):  # the twin alone has one row of heat maps less
        with Image.open(write_overview_png(workdir, tmp_path / "overview.png", count=4)) as picture:
            assert picture.width == 1200
            heights.append(picture.height)
    assert heights[1] < heights[0]
    with pytest.raises(ValueError, match="count=0"):
        write_overview_png(twins, tmp_path / "overview.png", count=0)


def test_the_overview_shows_no_more_than_there_is(single, tmp_path):
    with Image.open(write_overview_png(single, tmp_path / "few.png", count=10)) as ten:
        size = ten.size
    with Image.open(write_overview_png(single, tmp_path / "many.png", count=50)) as many:
        assert many.size == size


def test_the_same_files_give_the_same_page(twins, tmp_path):
    shutil.copytree(twins, tmp_path / "copy")
    assert write_report(twins).read_bytes() == write_report(tmp_path / "copy").read_bytes()


def test_a_re_weighted_accuracy_has_a_row_and_the_interval_of_its_effective_count(single):
    path = single / "evaluation.json"
    evaluation = json.loads(path.read_text())
    row = {"split": "shifted", "group": "re-weighted", "name": "groups as in training"}
    evaluation["accuracy"].insert(2, row | {"value": 0.9, "count": 2000, "effective_count": 640.5})
    path.write_text(json.dumps(evaluation))
    rows = {row.name: row for row in compare(read_runs(single))}
    assert list(rows)[:4] == [
        "Accuracy, in distribution",
        "Accuracy, shifted",
        "Re-weighted accuracy, shifted",
        "Worst group, shifted",
    ]
    weighted = rows["Re-weighted accuracy, shifted"]
    assert (weighted.note, weighted.unit, weighted.examples) == ("groups as in training", "share", 2000)
    assert weighted.figures[0].interval == wilson_interval(0.9, 640.5)
    assert "Re-weighted accuracy, shifted (groups as in training)" in comparison_markdown(single)
