"""The robustness report on made-up results.

`python tests/reports/test_robustness.py FOLDER` writes one to look at.
"""

import base64
import copy
import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from topgap_jax.reports.robustness import model_card, print_robustness, write_robustness_report
from topgap_jax.reports.robustness_findings import headline, lines, statement, verdict
from topgap_jax.reports.robustness_plots import steps_figure

EPS = 16 / 255
STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
RELATIVE = {"eps/30": 1 / 30, "eps/10": 1 / 10, "eps/4": 1 / 4, "eps": 1.0}
ROBUSTBENCH = (  # the fields of every file in its model_info
    "link name authors additional_data number_forward_passes dataset venue architecture eps clean_acc "
    "reported "
    "autoattack_acc unreliable footnote"
)
VOID = {"meta", "img", "source", "br"}


def attack(name: str, title: str, strength: str, robust: float, consistent: float, seconds: float, **config):
    return {
        "name": name,
        "title": title,
        "strength": strength,
        "robust_accuracy": robust,
        "prediction_consistency": consistent,
        "count": 512,
        "seconds": seconds,
        "config": {"eps": EPS, "norm": "linf", **config},
    }


# Number, status, name and figures; the sentence below.
DIAGNOSTICS = """\
1 | PASS | Clean, robust, consistent | {"clean": 0.96875, "robust": 0.423828125, "consistent": 0.43359375}
  Consistency lies at most 1.4 points above robust accuracy.
2 | PASS | Worst case over all attacks | {"worst_case": 0.0, "auto_attack": 0.0}
  The worst case per picture lies 0.0 points below AutoAttack.
3 | WARN | Accuracy over the steps | {"steps": [20, 100, 1000], "robust_accuracy": [0.4238, 0.1055, 0.0332]}
  Between 20 and 1000 steps of eps/30 the robust accuracy still falls by 39.1 points.
4 | WARN | Reach of the attack | {"reach": 0.6667, "wanted": 2.0}
  The steps of PGD-20 (paper recipe) add up to 0.67 eps, less than the 2 eps that cross the ball.
5 | PASS | Restarts, best and last iterate | {"restarts": 5, "gain": 0.00390625, "best_iterate": 0.0}
  Five restarts take 0.4 points more than one; the best iterate takes no more than the last.
6 | WARN | FGSM against PGD | {"fgsm": 0.388671875, "paper_pgd20": 0.423828125}
  One step of FGSM leaves 38.9%, PGD-20 (paper recipe) 42.4%: iterations that end behind a single step.
7 | PASS | Budget | {"eps": [0.00784, 0.0314, 0.0627, 1.0], "robust_accuracy": [0.71, 0.08, 0.0, 0.0]}
  Robust accuracy falls with every larger eps and is 0.0% at eps 1.
8 | PASS | Other losses | {"of": {"ce": 0.01, "ce_scaled": 0.008, "cw": 0, "dlr": 0, "a": 0, "b": 0, "c": 0}}
  No loss takes more than 1.2 points beyond cross-entropy.
9 | PASS | Vanishing gradients | {"zero_share_float32": 0.00217, "zero_share_float64": 0.00217}
  0.2% of the input gradients are zero in float32, as many in float64.
10 | PASS | Square against white box | {"surplus": 0.0, "threshold": 0.002}
  Square fools no picture that the white-box attacks leave.
11 | PASS | Random noise | {"samples": 1000, "fooled": 0}
  1000 noise samples a picture fool none of the pictures that PGD leaves.
12 | SKIPPED | Transfer | {"networks": null}
  No second network was given: name one with --transfer to run this.
13 | INFO | Gradient alignment | {"cosine": 0.3127, "random_cosine": 0.0021, "some": [0.3, 0.4], "x": null}
  The gradients at a picture and at a random point of its ball have a cosine of 0.31.
14 | WARN | Convergence of the loss | {"growth": 0.6134, "threshold": 0.05}
  In the last 10 of 20 steps the loss still grows by 61% of its whole rise.
15 | PASS | Attacks made for Top-GAP | {"gap_backward": 0.004, "larger_k": 0.002, "soft_top_k": 0.0}
  The best of 4 adapted attacks takes 0.0 points beyond AutoAttack.
16 | SKIPPED | Scale of the logits | {"median_margin": 3.41}
  No controls (label smoothing, logit squeezing) were given.
17 | PASS | Undefended network | {"robust_accuracy": 0.0}
  The same attack leaves the plain network 0.0%.
18 | PASS | Settings are recorded | {"lines": 4096, "complete": true}
  Every line of the journal carries the attack's whole configuration.
"""


def diagnostics() -> list[dict]:
    """Eighteen, of every status, with figures of every kind."""
    text = DIAGNOSTICS.splitlines()
    entries = []
    for head, sentence in zip(text[::2], text[1::2], strict=True):
        number, status, name, figures = head.split(" | ")
        entries.append({"number": int(number), "name": name, "status": status})
        entries[-1] |= {"figures": json.loads(figures), "sentence": sentence.strip()}
    return entries


def curve(clean: float, floors: dict[str, float], haste: float = 1) -> list[dict]:
    curves = []
    for name, relative in RELATIVE.items():
        reach = [min(1.0, haste * steps * relative) for steps in STEPS]
        late = [1 / (1 + (haste * steps * relative / 2) ** 1.2) for steps in STEPS]
        robust = [
            round(512 * (floors[name] + (clean - floors[name]) * (1 - 0.75 * r) * l)) / 512
            for r, l in zip(reach, late, strict=True)
        ]
        consistent = [min(1.0, value + 0.02 * (1 - value)) for value in robust]
        curves.append(
            {
                "step_size": EPS * relative,
                "relative_step_size": name,
                "steps": STEPS,
                "robust_accuracy": robust,
                "prediction_consistency": consistent,
            }
        )
    return curves


def results() -> dict:
    """Of a network that withstands cheap attacks only; no figure of it was measured."""
    return {
        "title": "Top-GAP",
        "config_hash": "5e1f0c9a7b3d",
        "commit": "0123456789ab",
        "seed": 0,
        "date": "2026-01-01 12:00 UTC",
        "machine": {"device": "cpu", "processor": "synthetic", "cores": 2, "jax": "0.0.0"},
        "dataset": "textured digits",
        "split": "in_distribution",
        "architecture": "resnet_narrow, pyramid head",
        "parameters": 347_210,
        "k": 64,
        "image_shape": [48, 48, 3],
        "norm": "linf",
        "eps": EPS,
        "count": 512,
        "clean_accuracy": 0.96875,
        "attacks": [
            attack("paper_fgsm", "FGSM", "cheap", 199 / 512, 205 / 512, 1.31, steps=1, step_size=EPS),
            attack(
                "paper_pgd20",
                "PGD-20 (paper recipe)",
                "cheap",
                217 / 512,
                222 / 512,
                21.4,
                steps=20,
                step_size=EPS / 30,
                restarts=1,
                random_start=True,
                reach=20 / 30,
            ),
            attack(
                "paper_pgd50",
                "PGD-50 (paper recipe)",
                "cheap",
                96 / 512,
                103 / 512,
                52.9,
                steps=50,
                step_size=EPS / 30,
                restarts=1,
                random_start=True,
                reach=50 / 30,
            ),
            attack(
                "pgd50",
                "PGD-50 (strong recipe)",
                "strong",
                14 / 512,
                17 / 512,
                98.2,
                steps=50,
                step_size=2 / 255,
                restarts=2,
                reach=6.25,
            ),
            attack("apgd20", "APGD-20", "strong", 9 / 512, 11 / 512, 22.7, steps=20, loss="ce"),
            attack(
                "square",
                "Square (5000 queries)",
                "strong",
                31 / 512,
                37 / 512,
                604.0,
                queries=5000,
                p_init=0.8,
            ),
        ],
        "auto_attack": {
            "version": "standard",
            "robust_accuracy": {
                "clean": 496 / 512,
                "apgd-ce": 5 / 512,
                "apgd-t": 0.0,
                "fab-t": 0.0,
                "square": 0.0,
            },
            "flags": [],
            "seconds": 341.2,
            "config": {
                "eps": EPS,
                "norm": "linf",
                "attacks": {"apgd-ce": {"steps": 100, "restarts": 1}, "fab-t": {"steps": 100, "targets": 9}},
            },
        },
        "worst_case": {
            "robust_accuracy": 0.0,
            "fooled_by": {
                "clean": 16,
                "paper_fgsm": 297,
                "paper_pgd20": 11,
                "paper_pgd50": 110,
                "apgd20": 73,
                "auto_attack": 5,
            },
        },
        "diagnostics": diagnostics(),
        "steps_curve": curve(0.96875, {"eps/30": 0.03, "eps/10": 0.012, "eps/4": 0.008, "eps": 0.02}),
    }


def twin_results() -> dict:
    content = results() | {
        "title": "plain GAP",
        "k": None,
        "parameters": 346_890,
        "clean_accuracy": 487 / 512,
    }
    content["attacks"] = [
        entry | {name: max(0.0, entry[name] - gap) for name in ("robust_accuracy", "prediction_consistency")}
        for entry, gap in zip(content["attacks"], (0.01, 0.36, 0.15, 0.03, 0.01, 0.05), strict=True)
    ]
    content["worst_case"] = {
        "robust_accuracy": 0.0,
        "fooled_by": {"clean": 25, "paper_fgsm": 300, "apgd20": 187},
    }
    content["auto_attack"]["robust_accuracy"] |= {"clean": 487 / 512, "apgd-ce": 0.0}
    content["auto_attack"]["flags"] = ["two calls with the same images gave different logits"]
    for entry in content["diagnostics"]:
        if entry["number"] in (3, 14):
            entry |= {"status": "PASS", "sentence": "Nothing moves any more.", "figures": {}}
    content["steps_curve"] = curve(487 / 512, dict.fromkeys(RELATIVE, 0.0), haste=4)
    return content


def save(directory: Path, content: dict) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "robustness.json").write_text(json.dumps(content))
    return directory


def save_twins(workdir: Path) -> Path:
    save(workdir / "twin" / "robustness", twin_results())
    return save(workdir / "robustness", results())


def change(content: dict, name: str, **values) -> dict:
    """The results with other values in the attack `name`."""
    content["attacks"] = [e | values if e["name"] == name else e for e in content["attacks"]]
    return content


class Page(HTMLParser):
    """Text, tags, and the cells of each table row by the row's header."""

    def __init__(self, path: Path):
        super().__init__()
        self.open, self.tags, self.rows, self.cells = [], [], [], []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.cells = []
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag
        if tag == "tr":
            self.rows.append([" ".join(cell.split()) for cell in self.cells])

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
            if "table" in self.open and self.cells:
                self.cells[-1] += data + " "

    def row(self, name: str) -> list[str]:
        return next(cells for cells in self.rows if any(cell.startswith(name) for cell in cells[:2]))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with a twin, written once."""
    directory = save_twins(tmp_path_factory.mktemp("run"))
    write_robustness_report(directory)
    return directory


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report / "robustness.html")


# What survives, in words.


def test_the_first_sentence_states_what_survives():
    assert statement(results()) == (
        "Of 512 pictures, Top-GAP classifies 96.9% right; 42.4% (prediction consistency 43.4%) after PGD-20 "
        "(paper recipe), 0.0% after AutoAttack (eps 16/255, L∞)."
    )


def test_cheap_robustness_is_called_that():
    words = "against cheap attacks only: nothing is left"
    assert words in verdict(results()) and words in headline((results(),))[0]
    content = results()
    content["auto_attack"]["robust_accuracy"] = {"clean": 0.97, "apgd-ce": 0.1}
    content["worst_case"]["robust_accuracy"] = 0.08
    assert "against cheap attacks only: only 8.0% is left" in verdict(content)
    assert "10.0% after AutoAttack, 8.0% in the worst case over all attacks (eps" in statement(content)


def test_robustness_that_holds_is_not_called_cheap():
    content = results()
    content["auto_attack"]["robust_accuracy"] = {"clean": 0.97, "apgd-ce": 0.40, "apgd-t": 0.38}
    content["worst_case"]["robust_accuracy"] = 0.38
    assert verdict(content) == "The strong attacks leave 4.4 points less than the cheap one: quote 38.0%."
    change(content, "paper_pgd20", robust_accuracy=0.381)
    assert verdict(content) == "The strong attacks take hardly more than the cheap one."


def test_what_no_attack_leaves_is_not_robust():
    content = change(results(), "paper_pgd20", robust_accuracy=0.01)
    assert "not robust at this budget: nothing is left" in verdict(content)


def test_without_a_strong_attack_nothing_is_claimed():
    content = results() | {"auto_attack": None, "worst_case": None}
    content["attacks"] = [entry for entry in content["attacks"] if entry["strength"] == "cheap"]
    assert "No strong attack was tried" in verdict(content)
    content["attacks"] = []
    assert statement(content) == "Of 512 pictures, Top-GAP classifies 96.9% right."
    assert verdict(content) == ""


def test_without_auto_attack_the_strongest_attack_is_quoted():
    content = results() | {"auto_attack": None}
    assert (
        "42.4% (prediction consistency 43.4%) after PGD-20 (paper recipe), 1.8% after APGD-20"
        in statement(content)
    )
    content["attacks"] = [entry for entry in content["attacks"] if entry["name"] != "paper_pgd20"]
    assert "18.8% (prediction consistency 20.1%) after PGD-50 (paper recipe)" in statement(content)


def test_an_attack_on_fewer_pictures_says_so():
    content = results()
    content["auto_attack"]["count"] = 128
    assert "0.0% of 128 after AutoAttack" in statement(content)
    assert lines((content,))[-2].robust.figures[0].examples == 128


def test_the_warnings_are_counted_in_the_headline(page):
    words = "4 of the 16 diagnostics of gradient masking (2 more were skipped) give a WARN: Accuracy over"
    assert any(sentence.startswith(words) for sentence in headline((results(),)))
    assert words in page.text and "▲ 4 WARN" in page.text
    quiet = results()
    quiet["diagnostics"] = [d for d in quiet["diagnostics"] if d["status"] != "WARN"]
    assert "None of the 12 diagnostics" in headline((quiet,))[-1]


# The page.


def test_the_attacks_stand_in_order_with_interval_and_difference(page):
    names = [line.robust.name for line in lines((results(), twin_results()))]
    assert names[0] == "No attack" and names[-2:] == ["AutoAttack", "Every picture's worst attack"]
    shown = [row[0] for row in page.rows]
    places = [next(i for i, title in enumerate(shown) if title.startswith(name)) for name in names]
    assert places == sorted(places)
    row = page.row("PGD-20 (paper recipe)")
    assert row[0].endswith("n = 512")
    assert "42.4% 38.2 to 46.7" in row[1] and "6.4%" in row[2] and "+36.0 points +31.1 to +40.7" in row[3]
    assert "43.4%" in row[4] and "7.4%" in row[5] and "21.4 s" in row[7]


def test_the_page_has_its_parts_in_order(page):
    titles = (
        "What each attack leaves",
        "AutoAttack, step by step",
        "Is it gradient masking?",
        "Accuracy over the steps of PGD",
    )
    places = [page.text.index(title) for title in titles]
    assert places == sorted(places) and page.text.index("Of 512 pictures, Top-GAP") < places[0]
    assert page.text.index("Settings of every attack, Top-GAP") > places[-1]


def test_auto_attack_is_shown_stage_by_stage(page):
    assert page.row("APGD-CE")[1:] == ["● Top-GAP 1.0%", "◆ plain GAP 0.0%"]
    assert "Top-GAP: version standard, 512 pictures, 5 min 41 s; no flags." in page.text
    flag = "▲ FLAGplain GAP: two calls with the same images gave different logits"
    assert flag in page.text


def test_every_diagnostic_has_its_mark_in_words(page):
    for entry in diagnostics():
        number, name, mark, words = page.row(entry["name"])
        expected = {"PASS": "✓ PASS", "WARN": "▲ WARN", "INFO": "○ INFO", "SKIPPED": "– skipped"}[
            entry["status"]
        ]
        assert (number, name, mark) == (str(entry["number"]), entry["name"], expected)
        assert words.startswith(entry["sentence"])
    assert "robust accuracy 0.4238, 0.1055, 0.0332" in page.row("Accuracy over the steps")[3]
    assert "of.ce scaled 0.008" in page.row("Other losses")[3]
    assert "7 figures" in page.row("Other losses")[3]  # folded away
    assert "The same diagnostics of plain GAP: 2 WARN, 13 PASS" in page.text


def test_the_page_stands_alone(report, page):
    source = (report / "robustness.html").read_text(encoding="utf-8")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert "url(" not in source and "@import" not in source and "http" not in source.replace("http-equiv", "")
    images = [a.get("src") or a["srcset"] for tag, a in page.tags if tag in ("img", "source")]
    assert len(images) == 4 and len(set(images)) == 4
    for image in images:
        kind, _, content = image.partition(",")
        assert kind == "data:image/svg+xml;base64" and b"</svg>" in base64.b64decode(content)
    alt = next(a["alt"] for tag, a in page.tags if tag == "img")
    assert "Top-GAP: 3.7% robust after 1,000 steps of eps/30" in alt and "0.0% after AutoAttack" in alt


def test_the_same_results_give_the_same_bytes(report, tmp_path):
    directory = save_twins(tmp_path)
    write_robustness_report(directory)
    for path in report.iterdir():
        assert (directory / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_plot_is_print_sized(report):
    with Image.open(report / "steps.png") as picture:
        assert picture.width > 1500 and picture.height > 700
    assert (report / "steps.pdf").read_bytes().startswith(b"%PDF")


def test_the_plot_shows_each_line_in_each_panel():
    figure = steps_figure((results(), twin_results()))
    panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["Top-GAP", "plain GAP"]
    assert panels[0].get_xscale() == "log" and panels[0].get_ylim() == panels[1].get_ylim()
    for axes, content in zip(panels, (results(), twin_results()), strict=True):
        drawn = [list(line.get_ydata()) for line in axes.lines]
        for entry in content["steps_curve"]:
            for name in ("robust_accuracy", "prediction_consistency"):
                assert [100 * value for value in entry[name]] in drawn
        assert len(drawn) == 2 * 4 + 1
        solid = [line.get_color() for line in axes.lines if line.get_linestyle() == "-"]
        assert len(set(solid)) == 4
    reordered = results()
    reordered["steps_curve"] = reordered["steps_curve"][::-1]
    same = steps_figure((results(), reordered)).axes
    colors = [[line.get_color() for line in axes.lines if line.get_linestyle() == "-"] for axes in same]
    assert colors[0] == colors[1][::-1]  # a step size keeps its colour


def test_names_from_the_file_are_escaped(tmp_path):
    content = results() | {"title": "<b>net</b> | [red]x[/red]", "steps_curve": None}
    path = write_robustness_report(save(tmp_path / "robustness", content))
    assert "<b>net" not in path.read_text() and "<b>net</b>" in Page(path).text
    out = io.StringIO()
    print_robustness(tmp_path / "robustness", out)
    assert "[red]x[/red]" in out.getvalue()


# With parts missing.


def test_a_network_alone(tmp_path):
    page = Page(write_robustness_report(save(tmp_path / "robustness", results() | {"steps_curve": None})))
    assert "plain GAP" not in page.text and "Difference" not in page.text and "against" in page.text
    assert page.row("PGD-20 (paper recipe)")[1:] == [
        "● robust accuracy 42.4% 38.2 to 46.7",
        "consistency 43.4%",
        "time 21.4 s",
    ]
    markdown = (tmp_path / "robustness" / "robustness.md").read_text()
    assert "| FGSM | 512 | 38.9% (34.7 to 43.2) | 40.0% | 1.3 s |" in markdown


def test_missing_parts_leave_their_sections_out(tmp_path):
    directory = save(tmp_path / "robustness", results())
    write_robustness_report(directory)
    content = results()
    for name in ("auto_attack", "worst_case", "diagnostics", "steps_curve", "machine", "date", "k", "seed"):
        del content[name]
    for entry in content["attacks"]:
        del entry["prediction_consistency"], entry["seconds"], entry["config"]
    page = Page(write_robustness_report(save(directory, content)))
    for title in ("AutoAttack", "Is it gradient masking?", "Accuracy over the steps", "WARN", "Worst case"):
        assert title not in page.text.partition("Model card")[0], title
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not (directory / "steps.png").exists() and not (directory / "steps.pdf").exists()
    card = json.loads((directory / "model_card.json").read_text())
    assert card["autoattack_acc"] is None and card["topgap_jax"]["auto_attack"] is None
    print_robustness(directory, io.StringIO())


def test_a_twin_without_some_attacks_gets_a_dash(tmp_path):
    directory = save_twins(tmp_path)
    twin = twin_results() | {"auto_attack": None, "diagnostics": None, "steps_curve": None}
    twin["attacks"] = twin["attacks"][:1]
    save(tmp_path / "twin" / "robustness", twin)
    page = Page(write_robustness_report(directory))
    row = page.row("PGD-20 (paper recipe)")
    assert row[2].endswith("–") and row[3].endswith("–")
    assert page.row("APGD-CE")[2].endswith("–")
    assert len(steps_figure((results(), twin)).axes) == 1


@pytest.mark.parametrize("name,value", [("eps", 8 / 255), ("norm", "l2"), ("split", "shifted")])
def test_a_twin_attacked_on_other_terms_is_left_out(tmp_path, name, value):
    directory = save_twins(tmp_path)
    save(directory, results() | {"steps_curve": None})
    save(tmp_path / "twin" / "robustness", twin_results() | {name: value})
    text = Page(write_robustness_report(directory)).text
    assert "plain GAP, the twin, was attacked on other terms" in text and "Difference" not in text


# The model card.


def test_the_model_card_has_robustbenchs_fields(report):
    card = json.loads((report / "model_card.json").read_text())
    assert set(ROBUSTBENCH.split()) <= set(card)
    assert card["clean_acc"] == "96.88" and card["autoattack_acc"] == "0.00" and card["eps"] == "16/255"
    assert card["number_forward_passes"] == 1 and card["unreliable"] is False and card["link"] is None
    assert "against cheap attacks only" in card["footnote"] and "give a WARN" in card["footnote"]
    ours = card["topgap_jax"]
    assert ours["config_hash"] == "5e1f0c9a7b3d" and len(ours["diagnostics"]) == 18
    paper = next(entry for entry in ours["attacks"] if entry["name"] == "paper_pgd20")
    assert paper["interval_95"] == pytest.approx([0.382, 0.467], abs=1e-3)
    assert "WARN 6, FGSM against PGD" in (report / "model_card.md").read_text()


def test_a_doubtful_auto_attack_is_unreliable():
    content = results()
    content["auto_attack"]["robust_accuracy"] = {"clean": 0.97, "apgd-ce": 0.4}
    content["worst_case"]["robust_accuracy"] = 0.3
    assert model_card(content)["unreliable"] and model_card(content)["external"] == "30.00"
    content["worst_case"]["robust_accuracy"] = 0.4
    assert not model_card(content)["unreliable"] and "external" not in model_card(content)
    content["auto_attack"]["flags"] = ["the network is randomised"]
    assert model_card(content)["unreliable"]


# The terminal.


def test_the_terminal_says_the_plain_statement_first(report):
    out = io.StringIO()
    print_robustness(report, out)
    words = " ".join(out.getvalue().split())
    assert words.startswith(statement(results()))
    assert "42.4% 38.2 to 46.7 43.4% 6.4% +36.0 points" in words
    assert "WARN 14, Convergence of the loss: In the last 10" in words


# Broken files.


def test_a_missing_or_half_written_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"robustness\.json is missing"):
        write_robustness_report(tmp_path)
    path = save(tmp_path, results()) / "robustness.json"
    path.write_text(path.read_text()[:1000])
    with pytest.raises(ValueError, match=r"robustness\.json is not complete JSON"):
        write_robustness_report(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"robustness\.json must hold a JSON object, got list"):
        print_robustness(tmp_path)


@pytest.mark.parametrize(
    "place,value,words",
    [
        (("eps",), None, "eps is missing"),
        (("eps",), -1, "eps must be a number above 0, got -1"),
        (("norm",), "Linf", "norm must be one of linf, l2, l1, got 'Linf'"),
        (("count",), 0, "count must be a whole number, at least 1, got 0"),
        (("attacks",), {}, "attacks must be a list of objects"),
        (
            ("attacks", 1, "robust_accuracy"),
            42.4,
            r"attacks\[1\]\.robust_accuracy must be a share .* got 42.4",
        ),
        (("attacks", 0, "robust_accuracy"), float("nan"), r"attacks\[0\]\.robust_accuracy .* got nan"),
        (("attacks", 2, "strength"), "medium", r"attacks\[2\]\.strength must be one of cheap, strong"),
        (("attacks", 2, "title"), None, r"attacks\[2\]\.title is missing"),
        (("auto_attack", "robust_accuracy"), {"clean": 0.9}, r"auto_attack\.robust_accuracy holds no attack"),
        (("auto_attack", "robust_accuracy", "apgd-t"), "0", r"auto_attack\.robust_accuracy\.apgd-t must be"),
        (("auto_attack", "flags"), "one", r"auto_attack\.flags must be a list, each a text"),
        (("worst_case", "robust_accuracy"), None, r"worst_case\.robust_accuracy is missing"),
        (
            ("diagnostics", 4, "status"),
            "OK",
            r"diagnostics\[4\]\.status must be one of PASS, WARN, INFO, SKIPPED",
        ),
        (("steps_curve", 0, "steps"), [0, 1], r"steps_curve\[0\]\.steps must be a list, each a whole number"),
        (
            ("steps_curve", 3, "robust_accuracy"),
            [0.5],
            r"steps_curve\[3\]\.robust_accuracy has 1 values for 10",
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path, place, value, words):
    content = copy.deepcopy(results())
    *parents, last = place
    owner = content
    for key in parents:
        owner = owner[key]
    owner[last] = value
    with pytest.raises(ValueError, match=rf"robustness\.json: {words}"):
        write_robustness_report(save(tmp_path, content))
    assert [path.name for path in tmp_path.iterdir()] == ["robustness.json"]


def test_a_broken_twin_is_named(tmp_path):
    directory = save_twins(tmp_path)
    save(tmp_path / "twin" / "robustness", {"title": "plain GAP"})
    with pytest.raises(ValueError, match=r"twin.robustness.robustness\.json: dataset is missing"):
        write_robustness_report(directory)


if __name__ == "__main__":
    print(write_robustness_report(save_twins(Path(sys.argv[1]))))
