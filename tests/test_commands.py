"""The commands that the guides and the configurations give, as the command line reads them."""

import re
import shlex
from pathlib import Path

import pytest

from topgap_jax.cli.arguments import read_config, split_overrides
from topgap_jax.training.config import resolve, twin_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("configs/*.py"))]


def commands(text: str) -> list[str]:
    """Calls that train, each on one line, without placeholders such as `[...]`."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"(?:python main\.py|topgap sweep) (--config=\S+[^\n`]*)", joined)
    whole = [re.sub(r" \[.*| #.*|'$", "", command) for command in found]
    return [re.sub(r"\$\w+", "0", command).replace("=...", "=configs/quickstart.py") for command in whole]


EVERY = sorted({command.strip() for page in PAGES for command in commands(page.read_text())})


@pytest.mark.parametrize("command", EVERY)
def test_every_command_names_fields_that_exist(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    others, overrides = split_overrides(shlex.split(command))
    path = others[0].removeprefix("--config=")
    config = resolve(read_config(path, overrides))
    twin_of(config)
    for override in overrides:
        field, _, value = override.removeprefix("--config.").partition("=")
        found = config
        for name in field.split("."):
            found = found[name]
        assert str(found).lower() == value.lower() or value[0] in "(\"'{", override


def test_the_guides_have_such_commands():
    assert len(EVERY) > 35 and any("--config.mesh.fsdp" in command for command in EVERY)


@pytest.mark.parametrize(
    ("arguments", "others", "overrides"),
    [
        (["a.py", "--config=c.py", "--config.seed=3"], ["a.py", "--config=c.py"], ["--config.seed=3"]),
        (["--config.seed", "-3", "x"], ["x"], ["--config.seed=-3"]),
        (["--noconfig.model.remat", "--workdir", "w"], ["--workdir", "w"], ["--noconfig.model.remat"]),
    ],
)
def test_changes_are_told_apart(arguments, others, overrides):
    assert split_overrides(arguments) == (others, overrides)


def test_what_is_no_configuration(tmp_path):
    for text, message in (
        ("get_config = 3 +", r"is no configuration file: invalid syntax"),
        ("x = 3", "is no configuration file: it has no function get_config"),
    ):
        (tmp_path / "config.py").write_text(text)
        with pytest.raises(SystemExit, match=message):
            read_config(str(tmp_path / "config.py"))
