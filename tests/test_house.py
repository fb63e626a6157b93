"""Who may import whom."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "topgap_jax"
ROOT = PACKAGE.parent

# What each room may import of the package, itself aside.
ALLOWED = {
    "nn": {"nn"},
    "losses": set(),
    "attacks": {"nn"},
    "data": set(),
    "analysis": set(),
    "models": {"nn"},
    "reports": set(),
    "corruptions": set(),
    "size_prior": set(),
    "training": {"models", "losses", "attacks", "data", "analysis", "corruptions"},
    "cli": {"training", "reports", "data", "size_prior"},
    "__main__": {"cli"},
}


def imported(path: Path) -> set[str]:
    """The full names of the modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            # `from topgap_jax import attacks` imports the room, not just the package.
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("topgap_jax.")}


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_only_what_they_may(room):
    files = (
        [PACKAGE / f"{room}.py"]
        if (PACKAGE / f"{room}.py").exists()
        else list((PACKAGE / room).rglob("*.py"))
    )
    assert files
    for path in files:
        assert rooms(path) <= ALLOWED[room] | {room}, path


def test_every_room_has_a_rule():
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found - {"__init__"} == set(ALLOWED)


def test_configs_import_nothing_but_ml_collections():
    files = list((ROOT / "configs").glob("*.py"))
    assert files
    for path in files:
        assert {name.split(".")[0] for name in imported(path)} <= {"ml_collections"}, path
