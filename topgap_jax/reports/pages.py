"""What every report is made with: templates, files that are whole or not there, and results read back."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from topgap_jax.reports.runs import Json


def render(template: str, view: Mapping[str, Any], functions: Sequence[Callable[..., str]]) -> str:
    """A template of this package, such as "report.html.jinja", filled with `view`.

    Args:
      functions: called in the template under their own names.
    """
    environment = Environment(
        loader=PackageLoader("topgap_jax.reports", "templates"),
        autoescape=template.endswith(".html.jinja"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    environment.globals |= {function.__name__: function for function in functions}
    return environment.get_template(template).render(view)


def write(path: Path, text: str) -> None:
    """Writes a file that is whole whenever it is read."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def read_summary(path: Path, fields: Sequence[str], *, written: str, again: str) -> Json:
    """A file of results.

    Args:
      fields: those it must have.
      written, again: when the file is written, and what to start again, for the messages.

    Raises:
      FileNotFoundError, ValueError: it is missing, half written or lacks a field.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: it is written once {written}")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not complete JSON ({error}): start {again} again") from error
    if missing := [name for name in fields if name not in summary]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: start {again} again")
    return summary


def finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance(facts: Mapping[str, Any], *machines: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what is known of a result's origin, and of the machines that computed it."""
    known = dict(facts)
    for machine in machines:
        known |= {"JAX" if name == "jax" else name.capitalize(): value for name, value in machine.items()}
    return [(name, str(value)) for name, value in known.items() if value not in (None, "")]
