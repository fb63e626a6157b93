import json

import ml_collections
import pytest

from topgap_jax.training.checkpoint import claim
from topgap_jax.training.config import (
    DEFAULTS,
    OPERATIONAL,
    as_json,
    config_hash,
    differences,
    flat,
    resolve,
    twin_of,
)


def test_defaults_are_filled_in_and_values_kept():
    config = resolve({"model": {"k": 12}, "optimizer": {"learning_rate": 1}})
    assert config.model.k == 12 and config.model.head == "pyramid"
    assert config.optimizer.learning_rate == 1.0
    assert resolve(config) == config
    assert (
        resolve(ml_collections.ConfigDict({"model": {"k": 12}, "optimizer": {"learning_rate": 1.0}}))
        == config
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sed": 1}, "unknown config field 'sed'; there are: title, seed, model"),
        ({"model": {"kk": 1}}, "unknown config field 'model.kk'; there are: model.name, model.head"),
        ({"twin": {"model": {"kk": 1}}}, "unknown config field 'model.kk'"),
    ],
)
def test_unknown_fields_are_answered_with_those_that_exist(config, message):
    with pytest.raises(ValueError, match=message):
        twin_of(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": 3}, "config field model=3 must be of type Mapping"),
        ({"model": {"k": 2.5}}, "config field model.k=2.5 must be of type int"),
        ({"model": {"k": True}}, "config field model.k=True must be of type int"),
        ({"optimizer": {"nesterov": 1}}, "config field optimizer.nesterov=1 must be of type bool"),
    ],
)
def test_values_of_another_type(config, message):
    with pytest.raises(TypeError, match=message):
        resolve(config)


def test_the_twin_differs_in_what_it_says():
    config = {"title": "ours", "model": {"k": 5}, "twin": {"title": "theirs", "model": {"head": "original"}}}
    twin = twin_of(config)
    assert differences(twin, resolve(config)) == [
        "model.head: original, not pyramid",
        "title: theirs, not ours",
        "twin.model.head: absent, not original",
        "twin.title: absent, not theirs",
    ]
    assert twin_of({"title": "alone"}) is None


def test_the_hash_names_the_run():
    assert config_hash(resolve({})) == config_hash(resolve(DEFAULTS))
    assert config_hash(resolve({"seed": 1})) != config_hash(resolve({}))
    assert config_hash(resolve({"data": {"test": ["a"]}})) == config_hash(resolve({"data": {"test": ("a",)}}))


def test_where_and_how_a_run_is_computed_may_change(tmp_path):
    """Devices, workers and what is written on the way, but nothing that changes its parameters."""
    config = resolve({"seed": 4})
    assert OPERATIONAL and set(OPERATIONAL) <= flat(json.loads(as_json(config))).keys()
    elsewhere = resolve(
        {
            "seed": 4,
            "mesh": {"data": 2, "fsdp": 4},
            "data": {"workers": 3},
            "train": {"log_every_steps": 7, "checkpoint_every_steps": 11},
            "profile": 5,
            "compilation_cache": "off",
        }
    )
    assert config_hash(config) == config_hash(elsewhere) and not differences(config, elsewhere)
    claim(tmp_path, config)
    claim(tmp_path, elsewhere)
    assert json.loads((tmp_path / "config.json").read_text())["mesh"] == {"data": -1, "fsdp": 1}
    for other in (
        {"train": {"batch_size": 64}},
        {"data": {"on_device": "never"}},
        {"model": {"remat": True}},
    ):
        with pytest.raises(ValueError, match="holds a run with another configuration"):
            claim(tmp_path, resolve({"seed": 4} | other))


def test_a_workdir_from_before_a_field_existed_is_the_same_run(tmp_path):
    """An upgrade that adds fields must not lock people out of their runs."""
    config = resolve({"seed": 4, "data": {"options": {"size": 40}}})
    older = json.loads(as_json(config))
    del older["data"]["folds"], older["mesh"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    claim(tmp_path, config)
    with pytest.raises(ValueError, match=r"data\.folds: 5, not 0"):
        claim(tmp_path, resolve({"seed": 4, "data": {"options": {"size": 40}, "folds": 5}}))
