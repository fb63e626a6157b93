"""The robustness results in sentences and rows: what survives, and how sure that is."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from topgap_jax.reports.comparison import NORMS, Figure, Row, format_eps, share
from topgap_jax.reports.runs import Json
from topgap_jax.reports.wording import listing, percent, points

CLEAN, CHEAP, STRONG, WORST = "No attack", "Cheap attacks", "Strong attacks", "Worst case"
PAPER = "paper_pgd20"  # the cheap attack that is quoted, where there is one
LITTLE = 0.05  # robust accuracy that nobody would call robust
STAGES = {"clean": "No attack", "square": "Square"}  # the others in capitals


class Line(NamedTuple):
    """One attack: robust accuracy, prediction consistency and time, a figure for each network."""

    robust: Row
    consistent: tuple[Figure | None, ...]
    seconds: tuple[Figure | None, ...]


def headline(results: tuple[Json, ...]) -> tuple[str, ...]:
    """What survives, in plain sentences; the first alone must not mislead."""
    own, *twins = results
    sentences = (f"{statement(own)} {verdict(own)}", *(statement(twin) for twin in twins), tally(own))
    return tuple(sentence.strip() for sentence in sentences)


def statement(results: Json) -> str:
    """What the network gets right without an attack, after a cheap one and after the strongest."""
    quoted = [entry for entry in (quoted_cheap(results), quoted_strong(results)) if entry]
    kept = [_kept(entry, results["count"]) for entry in quoted]
    worst = results.get("worst_case")
    if worst and worst["robust_accuracy"] < min([entry["robust_accuracy"] for entry in quoted] or [1]) - 5e-4:
        kept.append(f"{percent(worst['robust_accuracy'])} in the worst case over all attacks")
    text = f"Of {results['count']:,} pictures, {results['title']} classifies "
    text += f"{percent(results['clean_accuracy'])} right"
    terms = f" (eps {format_eps(results['eps'])}, {NORMS[results['norm']]})"
    return f"{text}; {', '.join(kept)}{terms}." if kept else f"{text}."


def verdict(results: Json) -> str:
    """Whether what the cheap attack leaves is worth anything."""
    cheap, strong = quoted_cheap(results), quoted_strong(results)
    if strong is None:
        return "No strong attack was tried: this is no measure of robustness." if cheap else ""
    left = min(strong["robust_accuracy"], (results.get("worst_case") or strong)["robust_accuracy"])
    rest = "nothing" if left == 0 else f"only {percent(left)}"
    most = cheap["robust_accuracy"] if cheap else left
    if most > LITTLE and left < most / 2:
        return f"The robustness is against cheap attacks only: {rest} is left once strong ones are tried."
    if left < LITTLE:
        return f"The network is not robust at this budget: {rest} is left once strong attacks are tried."
    if most - left > 0.005:
        fall = points(most - left)
        return f"The strong attacks leave {fall} less than the cheap one: quote {percent(left)}."
    return "The strong attacks take hardly more than the cheap one." if cheap else ""


def tally(results: Json) -> str:
    """How many diagnostics warn, and which."""
    diagnostics = results.get("diagnostics") or []
    counts = Counter(diagnostic["status"] for diagnostic in diagnostics)
    if not diagnostics:
        return "The diagnostics of gradient masking were not run."
    ran = f"{len(diagnostics) - counts['SKIPPED']} diagnostics of gradient masking"
    ran += f" ({counts['SKIPPED']} more were skipped)" if counts["SKIPPED"] else ""
    if not counts["WARN"]:
        return f"None of the {ran} gives a WARN."
    names = listing([diagnostic["name"] for diagnostic in warnings(results)])
    return f"{counts['WARN']} of the {ran} {'gives' if counts['WARN'] == 1 else 'give'} a WARN: {names}."


def warnings(results: Json) -> list[Json]:
    """The diagnostics that warn."""
    return [entry for entry in results.get("diagnostics") or [] if entry["status"] == "WARN"]


def quoted_cheap(results: Json) -> Json | None:
    """The paper's PGD-20, else the cheap attack that leaves least."""
    cheap = [entry for entry in results["attacks"] if entry["strength"] == "cheap"]
    paper = [entry for entry in cheap if entry["name"] == PAPER]
    return min(paper or cheap, key=lambda entry: entry["robust_accuracy"], default=None)


def quoted_strong(results: Json) -> Json | None:
    """AutoAttack, else the strong attack that leaves least."""
    strong = [entry for entry in results["attacks"] if entry["strength"] == "strong"]
    return auto_attack(results) or min(strong, key=lambda entry: entry["robust_accuracy"], default=None)


def auto_attack(results: Json) -> Json | None:
    """AutoAttack's result as an entry like those of the other attacks."""
    auto = results.get("auto_attack")
    if not auto:
        return None
    title = "AutoAttack" if auto["version"] == "standard" else f"AutoAttack ({auto['version']})"
    left = min(value for name, value in auto["robust_accuracy"].items() if name != "clean")
    fixed = {"name": "auto_attack", "title": title, "strength": "strong", "robust_accuracy": left}
    return {"count": results["count"]} | auto | fixed


def lines(results: tuple[Json, ...]) -> tuple[Line, ...]:
    """Every attack in reading order: none, cheap ones, strong ones, the worst case over all of them."""
    tables = [{(section, entry["name"]): entry for section, entry in _entries(result)} for result in results]
    keys = dict.fromkeys(key for table in tables for key in table)
    order = (CLEAN, CHEAP, STRONG, WORST)
    ranked = sorted(keys, key=lambda key: order.index(key[0]))
    return tuple(_line(section, [table.get((section, name)) for table in tables]) for section, name in ranked)


def stage_rows(results: tuple[Json, ...]) -> tuple[Row, ...]:
    """The share left after each of AutoAttack's attacks, in their order."""
    autos = [auto_attack(result) for result in results]
    shares = [(result.get("auto_attack") or {}).get("robust_accuracy", {}) for result in results]
    rows = []
    for name in dict.fromkeys(name for table in shares for name in table):
        figures = [
            share(table.get(name), auto["count"] if auto else None)
            for table, auto in zip(shares, autos, strict=True)
        ]
        rows.append(Row("AutoAttack", STAGES.get(name, name.upper()), "share", tuple(figures)))
    return tuple(rows)


def fooled_by(results: Json) -> list[tuple[str, int]]:
    """How many pictures each attack was the first to fool, by the attacks' titles, in their order."""
    titles = {entry["name"]: entry["title"] for _, entry in _entries(results)}
    titles |= {"clean": "wrong without an attack"}
    counts = ((results.get("worst_case") or {}).get("fooled_by") or {}).items()
    return [(titles.get(name, name), count) for name, count in counts if name and count]


def _entries(results: Json) -> Iterator[tuple[str, Json]]:
    shared = {"count": results["count"], "name": ""}
    yield CLEAN, shared | {"title": "No attack", "robust_accuracy": results["clean_accuracy"]}
    for entry in results["attacks"]:
        yield (CHEAP if entry["strength"] == "cheap" else STRONG), entry
    if auto := auto_attack(results):
        yield STRONG, auto
    if worst := results.get("worst_case"):
        title = "Every picture's worst attack"
        yield WORST, shared | {"title": title, "robust_accuracy": worst["robust_accuracy"]}


def _line(section: str, entries: list[Json | None]) -> Line:
    def figures(field: str) -> tuple[Figure | None, ...]:
        return tuple(share(entry.get(field), entry["count"]) if entry else None for entry in entries)

    title = next(entry["title"] for entry in entries if entry)
    seconds = [(entry or {}).get("seconds") for entry in entries]
    return Line(
        robust=Row(section, title, "share", figures("robust_accuracy"), better="higher"),
        consistent=figures("prediction_consistency"),
        seconds=tuple(None if value is None else Figure(value) for value in seconds),
    )


def _kept(entry: Json, pictures: int) -> str:
    text = percent(entry["robust_accuracy"])
    if entry["count"] != pictures:
        text += f" of {entry['count']:,}"
    consistency = entry.get("prediction_consistency")
    if entry["strength"] == "cheap" and consistency is not None:
        text += f" (prediction consistency {percent(consistency)})"
    return f"{text} after {entry['title']}"
