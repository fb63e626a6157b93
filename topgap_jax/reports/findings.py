"""What the figures say, in words. Every sentence is computed: other figures, another sentence."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from topgap_jax.reports.comparison import Figure, Row, attack_name, budget, split_name
from topgap_jax.reports.runs import Json, Run
from topgap_jax.reports.wording import listing, percent, points

MARGIN = 0.01  # a share; attacks closer than this to each other are taken as equally strong


class Finding(NamedTuple):
    """A remark on how far a figure can be trusted."""

    level: str  # "alarm": do not quote it; "caution": quote it with this remark; "reading": what it means
    title: str
    text: str


def headline(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> tuple[str, ...]:
    """The result in a few sentences."""
    return (*_clean(runs, rows), *_shifts(runs), *_attacked(runs), *_looks(runs))


def findings(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> tuple[Finding, ...]:
    """What to know before quoting the figures, alarms first."""
    found = [
        *_fgsm_against_pgd(runs),
        *_cheap_against_strong(runs[0]),
        *_upper_bound(runs),
        *_consistency(runs),
        _noise(runs, rows),
        _heat_maps(runs),
        *_differences(runs),
    ]
    order = ("alarm", "caution", "reading")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def strongest(run: Run) -> Json | None:
    """The attack with the least robust accuracy at the first budget in the file; of equals the last."""
    entries = next(iter(_budgets(run).values()), [])
    return min(reversed(entries), key=lambda entry: entry["robust_accuracy"], default=None)


def _clean(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> Iterator[str]:
    row = rows[0]
    if row.section != "Clean accuracy" or row.figures[0] is None:
        return
    split = split_name(runs[0].evaluation["accuracy"][0]["split"])
    text = f"{runs[0].title} scores {percent(row.figures[0].value)} {split}"
    if row.difference is not None:
        text += f", {_against(row.difference, runs[1].title, row.clear)}"
    yield f"{text}."


def _against(difference: Figure, title: str, clear: bool | None) -> str:
    if abs(difference.value) < 0.0005:
        return f"level with {title}"
    side = "above" if difference.value > 0 else "below"
    certainty = "more than" if clear else "within"
    return f"{points(difference.value)} {side} {title} ({certainty} the test set's sampling error)"


def _shifts(runs: tuple[Run, ...]) -> Iterator[str]:
    values = [
        {entry["split"]: entry["value"] for entry in run.evaluation["accuracy"] if "group" not in entry}
        for run in runs
    ]
    first, *others = values[0] or [""]
    for split in others:
        if all(first in value and split in value for value in values):
            changes = [value[split] - value[first] for value in values]
            parts = [
                f"{run.title} {_verb(change)} {points(change)} (to {percent(value[split])})"
                for run, change, value in zip(runs, changes, values, strict=True)
            ]
            yield f"On the {split_name(split)} pictures {listing(parts)}."


def _verb(change: float) -> str:
    return "loses" if change < 0 else "gains"


def _attacked(runs: tuple[Run, ...]) -> Iterator[str]:
    entries = [entry for entry in map(strongest, runs) if entry is not None]
    if len(entries) < len(runs):
        return
    same = len({attack_name(entry) for entry in entries}) == 1
    parts = [
        f"{run.title} {percent(entry['robust_accuracy'])}" + ("" if same else f" ({entry['name']})")
        for run, entry in zip(runs, entries, strict=True)
    ]
    attack = (
        f"attack tried, {attack_name(entries[0])}, leaves"
        if same
        else f"attacks tried at {budget(entries[0])} leave"
    )
    yield f"In robust accuracy, the strongest {attack} {listing(parts)}."


def _looks(runs: tuple[Run, ...]) -> Iterator[str]:
    energies = [run.evaluation["cam"].get("energy_in_mask") for run in runs]
    if None in energies:
        return
    others = [f", {run.title} {percent(energy)}" for run, energy in zip(runs[1:], energies[1:], strict=True)]
    coverage = _coverage(runs)
    covers = "" if coverage is None else f"; the object covers {percent(coverage)} of the picture"
    yield f"{runs[0].title} puts {percent(energies[0])} of its heat on the object{''.join(others)}{covers}."


def _coverage(runs: tuple[Run, ...]) -> float | None:
    return runs[0].evaluation["cam"].get("mask_coverage")


def _budgets(run: Run) -> dict[str, list[Json]]:
    budgets: dict[str, list[Json]] = defaultdict(list)
    for entry in run.evaluation["attacks"]:
        budgets[budget(entry)].append(entry)
    return budgets


def _fgsm_against_pgd(runs: tuple[Run, ...]) -> Iterator[Finding]:
    for run in runs:
        for entries in _budgets(run).values():
            single = [entry for entry in entries if entry["name"].startswith("FGSM")]
            iterated = [entry for entry in entries if not entry["name"].startswith("FGSM")]
            if single and iterated:
                yield from _compare_fgsm(run, single[0], iterated)


def _compare_fgsm(run: Run, fgsm: Json, iterated: list[Json]) -> Iterator[Finding]:
    left = fgsm["robust_accuracy"]
    weaker = [entry for entry in iterated if entry["robust_accuracy"] > left + MARGIN]
    if not weaker:
        return
    text = f"One step of FGSM leaves {run.title} {percent(left)} robust accuracy, "
    text += f"but {listing(_leaves(weaker))}. "
    if len(weaker) == len(iterated):
        text += (
            "No iterated attack is stronger than one step: the gradients are masked or the attacks too weak."
        )
        yield Finding("alarm", f"FGSM is stronger than PGD on {run.title}", text)
    else:
        names = listing([entry["name"] for entry in weaker])
        text += "Iterations that end up behind a single step are no measure of robustness."
        yield Finding("caution", f"FGSM is stronger than {names} on {run.title}", text)


def _leaves(entries: list[Json]) -> list[str]:
    return [
        f"{attack_name(entry)} leaves {percent(entry['robust_accuracy'])}{_reach(entry)}" for entry in entries
    ]


def _reach(entry: Json) -> str:
    reach = entry.get("config", {}).get("reach")
    if reach is None:
        return ""
    return (
        f" (its steps add up to {reach:.2g} eps{', short of the edge of the ball' if reach < 0.995 else ''})"
    )


def _cheap_against_strong(run: Run) -> Iterator[Finding]:
    for entries in _budgets(run).values():
        weak = max(entries, key=lambda entry: entry["robust_accuracy"])
        strong = min(reversed(entries), key=lambda entry: entry["robust_accuracy"])
        gap = weak["robust_accuracy"] - strong["robust_accuracy"]
        if gap > MARGIN:
            text = (
                f"{attack_name(weak)}{_reach(weak)} leaves {run.title} {percent(weak['robust_accuracy'])}, "
                f"{attack_name(strong)}{_reach(strong)} only {percent(strong['robust_accuracy'])}. The "
                f"{points(gap)} between them measure the weakness of an attack, not the strength of the "
                "network: quote the lower figure."
            )
            yield Finding("caution", f"Cheap attacks flatter ({budget(weak)})", text)


def _upper_bound(runs: tuple[Run, ...]) -> Iterator[Finding]:
    entry, classes = strongest(runs[0]), len(runs[0].examples.class_names)
    if entry is None:
        return
    left, clean = entry["robust_accuracy"], entry.get("clean_accuracy")
    names = listing(list(dict.fromkeys(entry["name"] for run in runs for entry in run.evaluation["attacks"])))
    text = f"Tried here: {names}. "
    if left <= 1 / classes:
        text += (
            f"{attack_name(entry)} leaves {runs[0].title} {percent(left)}, no more than guessing among "
            f"{classes} classes ({percent(1 / classes)}): it is not robust at this budget."
        )
    else:
        of = "" if clean is None else f" of {percent(clean)} without an attack"
        text += (
            f"What {runs[0].title} keeps ({percent(left)}{of}) can only shrink under a stronger attack, "
            "such as one made for this network."
        )
    yield Finding("reading", "Robust accuracy is an upper bound", text)


def _consistency(runs: tuple[Run, ...]) -> Iterator[Finding]:
    gaps = [
        (entry["prediction_consistency"] - entry["robust_accuracy"], run.title, entry)
        for run in runs
        for entry in run.evaluation["attacks"]
        if entry.get("prediction_consistency") is not None
    ]
    if not gaps:
        return
    gap, title, entry = max(gaps, key=lambda item: item[0])
    text = (
        "Robust accuracy counts the predictions that are right under the attack. Prediction consistency "
        "counts those that did not change, wrong ones included; it is what the paper's tables call robust "
        f"accuracy. Here the two lie up to {points(gap)} apart: {title} under {attack_name(entry)}, "
        f"{percent(entry['prediction_consistency'])} consistent, {percent(entry['robust_accuracy'])} robust."
    )
    yield Finding("reading", "Prediction consistency is not robust accuracy", text)


def _noise(runs: tuple[Run, ...], rows: tuple[Row, ...]) -> Finding:
    seeds = list(dict.fromkeys(str(run.evaluation["seed"]) for run in runs if "seed" in run.evaluation))
    text = (
        "The 95% intervals cover the sampling error of the test pictures (Wilson's for shares, 1.96 standard "
        "errors for means). They do not cover the luck of a training run: each network was trained once"
    )
    text += f", with seed {listing(seeds)}." if seeds else "."
    clear = [row.clear for row in rows if row.clear is not None]
    if clear:
        text += f" Of {len(clear)} differences with an interval, {clear.count(False)} could be zero."
    return Finding("reading", "What is noise", text)


def _heat_maps(runs: tuple[Run, ...]) -> Finding:
    texts = ["Sparsity says how much of the map is lit, not whether it is lit in the right place."]
    coverage = _coverage(runs)
    if coverage is not None:
        texts.append(
            f"The object covers {percent(coverage)} of a picture: an even map scores this much in energy and "
            f"in the pointing game, and marking the whole picture gives an IoU of {coverage:.3f}."
        )
    shapes = [tuple(run.evaluation.get("cam_shape") or ()) for run in runs]
    if len(set(shapes)) > 1 and all(shapes):
        sizes = [f"{run.title} {height} × {width}" for run, (height, width) in zip(runs, shapes, strict=True)]
        texts.append(
            f"Before upsampling the maps have different sizes ({listing(sizes)}); a coarse map cannot fit a "
            "small object tightly, wherever it looks."
        )
    methods = [f"{run.title} {run.evaluation['cam'].get('method')}" for run in runs]
    if len({run.evaluation["cam"].get("method") for run in runs}) > 1:
        texts.append(f"They come from different methods ({listing(methods)}).")
    return Finding("reading", "Reading the heat maps", " ".join(texts))


def _differences(runs: tuple[Run, ...]) -> Iterator[Finding]:
    if len(runs) < 2:
        return
    own, twin = (_settings(run.config) for run in runs)
    differing = [name for name in own | twin if own.get(name) != twin.get(name)]
    settings = [f"{name} ({own.get(name, 'none')} against {twin.get(name, 'none')})" for name in differing]
    parameters = listing([f"{run.title} has {run.evaluation['parameters']:,} parameters" for run in runs])
    text = f"The configurations differ in {listing(settings) or 'nothing'}. {parameters}."
    yield Finding("reading", "What is being compared", text)


def _settings(config: Json, prefix: str = "") -> Json:
    """The fields of a nested configuration by their dotted names, without those that only name the runs."""
    fields: Json = {}
    for name, value in config.items():
        if isinstance(value, dict) and prefix + name != "twin":
            fields |= _settings(value, f"{prefix}{name}.")
        elif prefix + name not in ("twin", "title"):
            fields[prefix + name] = value
    return fields
