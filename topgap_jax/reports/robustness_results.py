"""Reads `robustness.json`, its twin's too, and names the file and the field that is missing or wrong."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from topgap_jax.reports.comparison import budget
from topgap_jax.reports.runs import Json

FILE = "robustness.json"
SAME = ("norm", "eps", "dataset", "split")  # else the twin's figures answer another question

Check = tuple[Callable[[Any], bool], str]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check[0], value)), f"a list, each {check[1]}"


TEXT: Check = (lambda value: isinstance(value, str) and bool(value.strip()), "a text that is not empty")
SHARE: Check = (lambda value: _is_number(value) and 0 <= value <= 1, "a share in [0, 1]")
COUNT: Check = (lambda value: _is_number(value) and value == int(value) >= 1, "a whole number, at least 1")
NUMBER: Check = (_is_number, "a finite number")
POSITIVE: Check = (lambda value: _is_number(value) and value > 0, "a number above 0")
OBJECT: Check = (lambda value: isinstance(value, dict), "an object")
LIST: Check = (lambda value: isinstance(value, list), "a list")
OBJECTS: Check = (lambda value: LIST[0](value) and all(map(OBJECT[0], value)), "a list of objects")


def _one_of(*words: str) -> Check:
    return lambda value: value in words, f"one of {', '.join(words)}"


# What must stand in the file, by section; "?" marks what may also be missing or null.
WHOLE: Mapping[str, Check] = {
    **dict.fromkeys(("title", "dataset", "split", "architecture"), TEXT),
    "norm": _one_of("linf", "l2", "l1"),
    "eps": POSITIVE,
    "count": COUNT,
    "parameters": COUNT,
    "clean_accuracy": SHARE,
    "attacks": OBJECTS,
    "machine?": OBJECT,
    "image_shape?": _is_list_of(COUNT),
    "auto_attack?": OBJECT,
    "worst_case?": OBJECT,
    "diagnostics?": OBJECTS,
    "steps_curve?": OBJECTS,
}
ATTACK: Mapping[str, Check] = {
    "name": TEXT,
    "title": TEXT,
    "strength": _one_of("cheap", "strong"),
    "robust_accuracy": SHARE,
    "prediction_consistency?": SHARE,
    "count": COUNT,
    "seconds?": NUMBER,
    "config?": OBJECT,
}
AUTO_ATTACK: Mapping[str, Check] = {
    "version": TEXT,
    "robust_accuracy": OBJECT,
    "prediction_consistency?": SHARE,
    "count?": COUNT,
    "flags?": _is_list_of(TEXT),
    "seconds?": NUMBER,
    "config?": OBJECT,
}
WORST_CASE: Mapping[str, Check] = {"robust_accuracy": SHARE, "fooled_by?": OBJECT}
DIAGNOSTIC: Mapping[str, Check] = {
    "number": COUNT,
    "name": TEXT,
    "status": _one_of("PASS", "WARN", "INFO", "SKIPPED"),
    "figures?": OBJECT,
    "sentence": TEXT,
}
CURVE: Mapping[str, Check] = {
    "relative_step_size": TEXT,
    "steps": _is_list_of(COUNT),
    "robust_accuracy": _is_list_of(SHARE),
    "prediction_consistency?": _is_list_of(SHARE),
    "count?": COUNT,
}


def read_robustness(directory: Path) -> tuple[tuple[Json, ...], str]:
    """The results in `WORKDIR/robustness` and, after them, those of the twin in `WORKDIR/twin/robustness`.

    A twin that was attacked on other terms is left out; the text says so, and is empty otherwise.

    Raises:
      FileNotFoundError, ValueError: a file is missing, half written or wrong; the message names it.
    """
    own = _read(directory / FILE)
    path = directory.absolute().parent / "twin" / directory.absolute().name / FILE
    if not path.is_file():
        return (own,), ""
    twin = _read(path)
    if all(_same(own[name], twin[name]) for name in SAME):
        return (own, twin), ""
    terms = f"{budget(twin)} on {twin['dataset']}, {twin['split']}"
    return (own,), f"{twin['title']}, the twin, was attacked on other terms ({terms}) and is left out."


def _same(own: Any, twin: Any) -> bool:
    return math.isclose(own, twin, rel_tol=1e-6) if isinstance(own, float) else own == twin


def _read(path: Path) -> Json:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: attack the network first, the report reads the result")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not complete JSON ({error}): run the attacks again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    if wrong := next(_mistakes(content), None):
        raise ValueError(f"{path}: {wrong}")
    return content


def _mistakes(content: Json) -> Iterator[str]:
    yield from _fields(content, WHOLE, "")
    sections = {"attacks": ATTACK, "diagnostics": DIAGNOSTIC, "steps_curve": CURVE}
    for section, fields in sections.items():
        for index, entry in enumerate(content.get(section) or []):
            yield from _fields(entry, fields, f"{section}[{index}].")
    for section, fields in {"auto_attack": AUTO_ATTACK, "worst_case": WORST_CASE}.items():
        if content.get(section):
            yield from _fields(content[section], fields, f"{section}.")
    if content.get("auto_attack"):
        yield from _stages(content["auto_attack"]["robust_accuracy"])
    for index, curve in enumerate(content.get("steps_curve") or []):
        yield from _lengths(curve, f"steps_curve[{index}]")


def _fields(content: Json, fields: Mapping[str, Check], place: str) -> Iterator[str]:
    for name, (is_right, words) in fields.items():
        optional, name = name.endswith("?"), name.removesuffix("?")
        value = content.get(name)
        if value is None and not optional:
            yield f"{place}{name} is missing"
        elif value is not None and not is_right(value):
            yield f"{place}{name} must be {words}, got {value!r:.80}"


def _stages(shares: Json) -> Iterator[str]:
    if not set(shares) - {"clean"}:
        yield "auto_attack.robust_accuracy holds no attack"
    yield from _fields(shares, dict.fromkeys(shares, SHARE), "auto_attack.robust_accuracy.")


def _lengths(curve: Json, place: str) -> Iterator[str]:
    for name in ("robust_accuracy", "prediction_consistency"):
        values = curve.get(name)
        if values is not None and not 0 < len(curve["steps"]) == len(values):
            yield f"{place}.{name} has {len(values)} values for {len(curve['steps'])} numbers of steps"
