"""The configuration: every field with its default. A file in `configs/` states what differs."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import ml_collections


class ConfigError(ValueError):
    """A configuration or a workdir that cannot be run; raised before any long work starts."""


DEFAULTS: dict[str, Any] = {
    "title": "Top-GAP",  # how reports call this run
    "seed": 0,
    "model": {
        "name": "resnet18",
        "head": "pyramid",
        "pool": "topk",
        "k": 256,
        "pyramid_channels": 256,
        "dropout": 0.0,
        "block_dropout": 0.0,
        "drop_path": 0.0,
        "activation": "relu",  # or "kwta:0.1", with the share of values that is kept
        "downsampling": "strided",  # or "flc"
        "dtype": "float32",
        "remat": False,
        "frozen_batch_norm": False,
        "pretrained": "",  # a file of weights, hf:OWNER/NAME or package:NAME
    },
    "loss": {
        "l1": 1.0,
        "l1_of": "cam",  # or "last", "all": of the backbone's activations
        "label_smoothing": 0.0,
        "logit_squeezing": 0.0,
        "class_weights": (),
    },
    "adversarial": {
        "method": "none",  # "fgsm", "pgd" or "trades"
        "eps": 8 / 255,
        "step_size": 2 / 255,
        "steps": 10,
        "grad_align": 0.0,  # weight of the penalty of GradAlign
        "beta": 6.0,  # of TRADES
    },
    "data": {
        "source": "embedded",
        "options": {},  # keyword arguments of the source
        "train": "train",
        "validation": "validation",
        "test": (),  # splits of the final evaluation, the first one is also attacked
        "tests_elsewhere": {},  # further test sets: {NAME: {"source": ..., "split": ..., "options": {...}}}
        "folds": 0,  # of a cross-validation of the split `train`; 0: none
        "fold": -1,  # the one to train; -1: all, one after another
        "fold_seed": 0,  # of the division
        "fold_validation": 10,  # of what a fold does not test on, one example in so many validates
        "fold_groups": False,  # whether the examples of one group (a specimen, a patient) stay together
        "augment": (),
        "eval_transforms": (),  # of validation and test pictures: "resize_short:256", "center_crop:224"
        "mixup": 0.0,  # parameter of the beta distribution, 0: none; with `cutmix` one of the two per batch
        "cutmix": 0.0,
        "workers": 0,  # processes that load and augment; 0: threads
        "on_device": "auto",  # training pictures: "auto" (small arrays on GPU or TPU), "always", "never"
        "on_device_limit": 2**30,  # bytes, for "auto"
    },
    "optimizer": {
        "name": "sgd",
        "learning_rate": 0.1,
        "schedule": "one_cycle",
        "warmup_fraction": 0.25,
        "step_milestones": (0.5, 0.75),
        "momentum": 0.9,
        "nesterov": True,
        "beta2": 0.999,
        "weight_decay": 5e-4,
        "clip_norm": 0.0,  # 0: no clipping
        "accumulate": 1,  # batches per update
        "freeze": (),  # regular expressions: parameters whose path starts so are not trained
        "layer_decay": 1.0,  # of the learning rate, per block of distance from the head
        "ema_decay": 0.0,  # 0: none; else evaluation uses the averaged parameters
    },
    "train": {
        "batch_size": 128,  # over all devices and hosts
        "epochs": 10,
        "log_every_steps": 50,
        "checkpoint_every_steps": 200,
    },
    "mesh": {"data": -1, "fsdp": 1},  # -1: all remaining devices
    "evaluation": {
        "batch_size": 256,
        "weights": "last",  # or "best", by validation accuracy
        "attacks": (),
        "attack_eps": 8 / 255,
        "attack_examples": 512,  # the first ones of the first test split
        "cam_examples": 1000,
        "pictures": 8,
    },
    "profile": 0,  # steps of a profiler trace, in workdir/profile; 0: none
    "compilation_cache": "auto",  # folder of compiled programs; "auto": on GPU and TPU only; "off"
    "twin": {},  # fields that differ in a second run, trained and evaluated beside this one
}
OF_NUMBERS = ("loss.class_weights", "optimizer.step_milestones")  # other tuples are of names
FREE_FORM = ("data.options", "data.tests_elsewhere", "twin")
# Where and how a run is computed and watched, not what: another value resumes the same run.
OPERATIONAL = (
    "compilation_cache",
    "data.workers",
    "mesh.data",
    "mesh.fsdp",
    "profile",
    "train.checkpoint_every_steps",
    "train.log_every_steps",
)


def resolve(config: Mapping[str, Any]) -> ml_collections.FrozenConfigDict:
    """Fills in the defaults.

    Raises:
      ValueError: a field that does not exist; the message lists those that do.
      TypeError: a value of another type than its default.
    """
    return ml_collections.FrozenConfigDict(_merge(DEFAULTS, _plain(config), ""))


def twin_of(config: Mapping[str, Any]) -> ml_collections.FrozenConfigDict | None:
    """The configuration of the run beside `config`: the same but for what its `twin` says."""
    plain = _plain(resolve(config))
    changes = plain.pop("twin")
    return resolve(_merge(plain, changes, "")) if changes else None


def as_json(config: Mapping[str, Any]) -> str:
    """Canonical: equal configurations give equal text."""
    return json.dumps(_plain(config), indent=2, sort_keys=True)


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name the configuration without its operational fields."""
    return hashlib.sha256(json.dumps(_defining(config), sort_keys=True).encode()).hexdigest()[:12]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """`field: ours, not theirs`, for every field in which two runs differ; operational fields may."""
    flat_ours, flat_theirs = _defining(ours), _defining(theirs)
    fields = sorted(flat_ours.keys() | flat_theirs.keys())
    return [
        f"{field}: {flat_ours.get(field, 'absent')}, not {flat_theirs.get(field, 'absent')}"
        for field in fields
        if flat_ours.get(field, "absent") != flat_theirs.get(field, "absent")
    ]


def filled(
    stored: Mapping[str, Any], defaults: Mapping[str, Any] = DEFAULTS, path: str = ""
) -> dict[str, Any]:
    """A stored configuration, with the defaults of fields that did not exist when it was written."""
    result = dict(defaults) | dict(stored)
    for name, value in stored.items():
        field = f"{path}{name}"
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping) and field not in FREE_FORM:
            result[name] = filled(value, defaults[name], f"{field}.")
    return result


def _merge(defaults: Mapping[str, Any], given: Mapping[str, Any], path: str) -> dict[str, Any]:
    merged = dict(defaults)
    for name, value in given.items():
        field = f"{path}{name}"
        if name not in defaults:
            there = ", ".join(path + known for known in defaults)
            raise ValueError(f"unknown config field {field!r}; there are: {there}")
        if field in FREE_FORM:
            merged[name] = value
        elif isinstance(defaults[name], Mapping):
            merged[name] = _merge(defaults[name], _expect(field, value, Mapping), f"{field}.")
        else:
            merged[name] = _typed(field, value, defaults[name])
    return merged


def _typed(field: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        return _expect(field, value, bool)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        kind: Any = float if field in OF_NUMBERS else str
        return tuple(_typed(f"{field}[{index}]", one, kind()) for index, one in enumerate(value))
    return _expect(field, value, type(default))


def _expect(field: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"config field {field}={value!r} must be of type {kind.__name__}")
    return value


def _defining(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say which run it is, as JSON has them."""
    fields = flat(json.loads(as_json(config)))
    return {field: value for field, value in fields.items() if field not in OPERATIONAL}


def _plain(config: Any) -> dict[str, Any]:
    if isinstance(config, ml_collections.ConfigDict | ml_collections.FrozenConfigDict):
        config = config.to_dict()
    return {
        name: _plain(value) if isinstance(value, Mapping | ml_collections.ConfigDict) else value
        for name, value in config.items()
    }


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested fields under their paths, such as "model.k"."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        fields |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return fields
