"""Our attacks beside the reference AutoAttack's, on three trained networks and 512 pictures.

The reference is torchattacks, and also fra31/auto-attack where the environment variable AUTOATTACK names its
folder. Its random numbers are others, so robust accuracies are compared. Square gets a tenth of its queries
and the targeted attacks four of nine targets, in both; `benchmarks/autoattack.py` compares the whole of it.
"""

import os
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchattacks")

from robust_networks import network, reference, torch_network  # noqa: E402
from topgap_jax import attacks  # noqa: E402
from topgap_jax.attacks.autoattack import APGD_DLR, VERSIONS, auto_attack  # noqa: E402

PICTURES = 512
QUERIES, TARGETS = 500, 4
TOLERANCE = 0.006  # three pictures

LESS = {"apgd-t": {"num_targets": TARGETS}, "fab-t": {"num_targets": TARGETS}, "square": {"queries": QUERIES}}
STANDARD = {name: partial(attack, **LESS.get(name, {})) for name, attack in VERSIONS["standard"].items()}
SINGLE = {**STANDARD, "apgd-dlr": APGD_DLR}


class Pair(NamedTuple):
    """One network in both frameworks, and its pictures."""

    eps: float
    ours: attacks.LogitsFn
    theirs: torch.nn.Module
    images: np.ndarray  # [B,H,W,C]
    labels: np.ndarray


@pytest.fixture(scope="module", params=network.NAMES)
def pair(request):
    torch.set_num_threads(os.cpu_count())
    name = request.param
    images, labels = network.pictures(PICTURES)
    return Pair(
        network.EPS[name], attacks.logits_fn(network.load(name)), torch_network.load(name), images, labels
    )


@pytest.fixture(scope="module")
def ours(pair):
    """Who survives, by attack: bool [B]. The keys are the ensemble's own."""
    clean = attacks.predict(pair.ours, pair.images) == pair.labels
    rows = np.flatnonzero(clean)
    survivors = {}
    for number, (name, attack) in enumerate(SINGLE.items()):
        key = jax.random.fold_in(jax.random.key(0), number)
        found = attack(pair.ours, pair.images[rows], pair.labels[rows], eps=pair.eps, indices=rows, key=key)
        survivors[name] = clean.copy()
        survivors[name][rows] = ~found.success
    return survivors


@pytest.fixture(scope="module", params=reference.sources())
def theirs(request, pair):
    """Who survives the reference, by attack."""
    build, data = reference.sources()[request.param], torch_network.tensors(pair.images, pair.labels)
    return {
        name: reference.run(
            build, pair.theirs, *data, eps=pair.eps, attacks=(name,), targets=TARGETS, queries=QUERIES
        ).robust
        for name in SINGLE
    }


def test_same_network(pair):
    with torch.no_grad():
        theirs = pair.theirs(torch_network.tensors(pair.images, pair.labels)[0]).numpy()
    ours = attacks.networks.logits_of(pair.ours, pair.images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", SINGLE)
def test_single_attack_is_as_strong(ours, theirs, name):
    assert ours[name].mean() <= theirs[name].mean() + TOLERANCE


def test_standard_ensemble(ours, theirs):
    """Each attack only sees what the ones before left, so those survive who survive every one."""
    left = [np.logical_and.reduce([robust[name] for name in STANDARD]).mean() for robust in (ours, theirs)]
    assert abs(left[0] - left[1]) <= TOLERANCE


def test_auto_attack_is_the_sum_of_its_attacks(pair, ours):
    """What becomes of a picture depends neither on the others nor on who left before, up to one in 48.

    A smaller batch may round differently, and an outcome on the edge turns over.
    """
    some = slice(0, 48)
    result = auto_attack(pair.ours, pair.images[some], pair.labels[some], eps=pair.eps, version=STANDARD)
    survivors = np.logical_and.reduce([ours[name][some] for name in STANDARD])
    assert (~result.success != survivors).sum() <= 1
