"""The eighteen diagnostics: an honest network passes, and masked ones raise the warnings that they should."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from topgap_jax import attacks
from topgap_jax.attacks import base, evaluation_checks, evidence, gradient_checks, networks, trajectories
from topgap_jax.attacks.base import Examples
from topgap_jax.attacks.diagnostics import diagnose, expected_target_logit
from topgap_jax.attacks.network_checks import network_flags
from topgap_jax.models.classifier import ModelOutput

EPS = 0.1
HONEST_STEPS = (1, 5, 20, 50, 100)
# An evaluation that found nothing; with a Square in it, the diagnostics run none.
NOTHING = {"pgd": np.zeros(96, bool), "square": np.zeros(96, bool)}
QUICK = dict(eps=EPS, steps=(1, 10, 20), queries=300, samples=20, restarts=3, examples=64)


def by_number(diagnostics):
    assert [diagnostic.number for diagnostic in diagnostics] == list(range(1, 19))
    return {diagnostic.number: diagnostic for diagnostic in diagnostics}


def maskable(network, levels, scale, ripple, images):
    """A network whose input can be quantised or rippled and whose logits can be scaled, in one program."""
    rounded = jnp.round(levels * images) / jnp.maximum(levels, 1)
    images = jnp.where(levels > 0, rounded, images + ripple * jnp.sin(32 * jnp.pi * images))
    return scale * network(images)


def masked(data, levels=0.0, scale=1.0, ripple=0.0):
    maskable_network = data[0].args[0]
    function, network = maskable_network.func, maskable_network.args[0]
    return Partial(function, network, *(jnp.float32(number) for number in (levels, scale, ripple)))


@pytest.fixture(scope="module")
def data(trained):
    """An honest network, images and labels. All networks of this file that can be are one program."""
    network, images, labels = trained
    numbers = (jnp.float32(number) for number in (0.0, 1.0, 0.0))
    return (
        attacks.logits_fn(Partial(maskable, attacks.logits_fn(network), *numbers)),
        images[:96],
        labels[:96],
    )


@pytest.fixture(scope="module")
def evaluated(trained, data):
    """The honest network, diagnosed with an evaluation, a twin and its CAM."""
    network, images, labels = data
    evaluation = {
        "pgd": attacks.pgd(network, images, labels, eps=EPS, steps=40, restarts=3, batch_size=32),
        "paper_pgd20": attacks.pgd(network, images, labels, eps=EPS, steps=20, recipe="paper", batch_size=32),
    }
    seen = []
    double = trajectories.in_float64(trained[0])
    settings = QUICK | dict(steps=HONEST_STEPS, attacks=evaluation, plain_twin=network, log=seen.append)
    found = diagnose(network, images, labels, float64_network=double, **settings)
    assert sorted(seen, key=lambda diagnostic: diagnostic.number) == found
    return by_number(found), evaluation


def diagnosed(function, data, **settings):
    _, images, labels = data
    return by_number(diagnose(function, images, labels, **(QUICK | settings)))


class TestHonestNetwork:
    def test_passes_what_only_masking_fails(self, evaluated):
        found, _ = evaluated
        for number in (3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 18):
            assert found[number].status == "PASS", found[number]

    def test_consistency_is_not_robust_accuracy(self, evaluated, data):
        found, evaluation = evaluated
        network, images, labels = data
        clean, paper = attacks.predict(network, images), evaluation["paper_pgd20"].predictions
        assert found[1].figures["clean_accuracy"] == pytest.approx((clean == labels).mean())
        assert found[1].figures["attacks"]["paper_pgd20"] == {
            "robust_accuracy": attacks.robust_accuracy(clean, paper, labels),
            "prediction_consistency": attacks.prediction_consistency(clean, paper),
        }
        assert found[1].status == "WARN"

    def test_worst_case_counts_every_attack(self, evaluated, data):
        found, evaluation = evaluated
        network, images, labels = data
        right = attacks.predict(network, images) == labels
        fooled = evaluation["pgd"].success | evaluation["paper_pgd20"].success
        assert found[2].figures["worst_case"] == pytest.approx((right & ~fooled).mean())
        assert found[2].figures["worst_case"] <= min(found[2].figures["robust_accuracy"].values())

    def test_names_the_attack_that_cannot_cross_the_ball(self, evaluated):
        found, _ = evaluated
        assert found[4].status == "WARN"
        assert found[4].figures["radii"]["paper_pgd20"] == pytest.approx(20 / 30)
        assert found[4].figures["short"] == ["paper_pgd20"]

    def test_too_few_small_steps(self, data):
        found = diagnosed(data[0], data, attacks=NOTHING, samples=1)
        assert found[4].figures["short"] == ["steps curve, eps/30"]
        assert found[3].status == "WARN" and found[3].figures["still_falling"]["eps/30"] > 0.02

    def test_curve_is_figure_a3(self, evaluated, data):
        found, _ = evaluated
        figures = found[3].figures
        assert figures["steps"] == list(HONEST_STEPS)
        for curve in figures["robust_accuracy"].values():
            assert len(curve) == 5 and curve == sorted(curve, reverse=True)
        last = figures["last_iterate"]
        pairs = list(zip(last["robust_accuracy"], last["prediction_consistency"], strict=True))
        assert all(robust <= consistent for robust, consistent in pairs)
        assert pairs[-1][0] < pairs[0][0] - 0.2

    def test_float64_and_shares_are_plausible(self, evaluated):
        found, _ = evaluated
        assert found[9].figures["float64_median_cosine"] > 0.9999
        assert found[9].figures["zero_gradients"] == 0
        assert found[13].figures["mean_cosine"] > 0.5
        assert found[7].figures["robust_accuracy"][-1] == 0

    def test_says_what_it_could_not_check(self, evaluated):
        found, _ = evaluated
        assert found[15].status == "SKIPPED" and "no network" in found[15].sentence.lower()
        assert found[16].status == "INFO" and "no control" in found[16].sentence

    def test_is_ready_for_json(self, evaluated):
        found, _ = evaluated
        rows = [diagnostic._asdict() for diagnostic in found.values()]
        again = json.loads(json.dumps(rows, allow_nan=False))
        assert [row["number"] for row in again] == list(found)
        for diagnostic in found.values():
            assert diagnostic.sentence.endswith(".") and not diagnostic.sentence[0].islower()

    def test_undefended_twin_falls_in_a_larger_ball(self, data):
        network, _, _ = data
        settings = dict(eps=2 * EPS, plain_twin=network, steps=(1, 2), examples=32, attacks=NOTHING)
        found = diagnosed(network, data, **settings)
        assert found[17].status == "PASS" and found[17].figures["robust_accuracy"] <= 0.05
        assert diagnosed(network, data, **(settings | dict(eps=0.01)))[17].status == "WARN"

    @pytest.mark.slow
    def test_l2(self, data):
        found = diagnosed(data[0], data, eps=0.5, norm="l2", steps=(1, 5, 50, 100), attacks=NOTHING)
        for number in (3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14):
            assert found[number].status == "PASS", found[number]

    def test_nobody_stands(self, data):
        network, images, _ = data
        wrong = (attacks.predict(network, images) + 1) % 10
        found = by_number(diagnose(network, images, wrong, **QUICK, attacks=NOTHING))
        assert found[11].figures["standing"] == 0 and found[14].sentence.startswith("Nobody stands")
        assert found[1].figures["clean_accuracy"] == found[7].figures["robust_accuracy"][0] == 0


class TestMaskedNetworks:
    def test_quantised_input(self, data):
        found = diagnosed(masked(data, levels=8), data, plain_twin=data[0])
        for number in (7, 9, 10, 12, 13, 14):
            assert found[number].status == "WARN", found[number]
        assert found[9].figures["zero_gradients"] == 1
        assert found[14].sentence.endswith("there is no gradient to follow.")
        assert "no network in float64" in found[9].sentence

    def test_saturated_softmax(self, data):
        found = diagnosed(masked(data, scale=1e4), data, attacks=NOTHING)
        assert found[8].status == found[9].status == "WARN"
        robust = found[8].figures["robust_accuracy"]
        assert max(robust["margin"], robust["dlr"], robust["ce-rescaled"]) < robust["ce"] - 0.1

    def test_rippled_input(self, data):
        """The ripple keeps the gradient's sign at digits, multiples of 1/16, and turns it between them."""
        found = diagnosed(masked(data, ripple=0.05), data, attacks=NOTHING)
        assert found[6].status == "WARN" and found[6].figures["fooled_by_fgsm_only"] > 0.02
        assert found[13].figures["mean_cosine"] < 0.5

    def test_noise_fools_where_gradients_do_not(self, data):
        found = diagnosed(masked(data, levels=2), data, samples=50, attacks=NOTHING)
        assert found[11].status == "WARN" and found[11].figures["fooled"] > 0
        # What noise found, the worst case knows.
        assert found[2].status == "WARN"
        assert found[2].figures["newly_fooled"] >= found[11].figures["fooled"]


SMALL = dict(steps=(1, 2), examples=16, batch_size=16, samples=1, restarts=1)


class TestAdaptedToTopGAP:
    def test_hidden_selection(self, data):
        """A model whose logits have no gradient but whose CAM has one."""
        network, _, _ = data

        def model(images):
            logits = network(images)
            cam = jnp.broadcast_to(logits[:, None, None], (len(images), 4, 4, 10))
            return ModelOutput(jax.lax.stop_gradient(logits), cam, ())

        found = diagnosed(model, data, cam_network=model, k=2, l1=1.0, attacks=NOTHING, **SMALL)
        assert found[15].status == "WARN" and found[15].figures["fooled"] > 0
        assert found[16].figures["expected_target_logit"] == pytest.approx(
            expected_target_logit(1.0, 2, 16, 10)
        )


class TestSingleChecks:
    def case(self, predictions, losses, steps=(1, 2)):
        """A case of 4 examples that all start right, with trajectories made by hand."""
        labels = np.zeros(4, np.int32)
        images = np.full((4, 2, 2, 1), 0.5, np.float32)
        examples = Examples(images, labels, labels, np.arange(4), np.zeros(4, np.int32))
        logits = np.tile(np.array([2.0, 1.0, 0.0, 0.0], np.float32), (4, 1))
        case = evidence.Case(None, examples, logits, {}, 0.1, "linf", steps, 4, jax.random.key(0))
        trajectory = trajectories.Trajectory(np.array(predictions), np.array(losses, np.float32), images)
        case.curves = dict.fromkeys(evidence.STEP_DIVISORS, trajectory)
        case.swapped = dict.fromkeys(trajectories.NAMES, trajectory.fooled(labels))
        return case

    def test_curve_that_still_falls(self):
        case = self.case([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]], np.zeros((3, 4)))
        found = gradient_checks.steps_curve(case)
        assert found.status == "WARN"
        assert found.figures["robust_accuracy"]["eps/30"] == [0.75, 0.25]
        assert found.figures["weaker"] == 0 and found.figures["still_falling"]["eps/10"] == 0.5

    def test_more_steps_that_weaken_the_attack(self):
        case = self.case([[0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]], np.zeros((3, 4)))
        found = gradient_checks.steps_curve(case)
        assert found.status == "WARN" and found.figures["weaker"] == 0.5
        assert found.figures["last_iterate"]["prediction_consistency"] == [0.25, 0.75]
        case.right[:] = False  # nobody is left for restarts
        assert gradient_checks.restarts(case).figures["lost_by_last_iterate"] == 0
        case.right[:] = True

    def test_last_iterate_that_loses(self, monkeypatch):
        case = self.case([[0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]], np.zeros((3, 4)))
        lucky = trajectories.Trajectory(np.ones((1, 1), int), np.zeros((1, 1)), None)
        monkeypatch.setattr(case, "ascend", lambda rows, key: lucky, raising=False)
        found = gradient_checks.restarts(case, 2)
        assert found.status == "WARN" and found.figures["lost_by_last_iterate"] == 0.5
        assert found.figures["robust_accuracy_1"] - found.figures["robust_accuracy_all"] == 0.25

    def test_loss_that_still_rises(self):
        rising = np.arange(31.0)[:, None] * np.ones(4)
        resting = np.minimum(rising, 10)
        standing = np.zeros((31, 4), np.int32)
        assert gradient_checks.loss_converged(self.case(standing, rising, (1, 30))).status == "WARN"
        assert gradient_checks.loss_converged(self.case(standing, resting, (1, 30))).status == "PASS"
        assert gradient_checks.loss_converged(self.case(standing, 0 * rising, (1, 30))).status == "WARN"
        assert gradient_checks.loss_converged(self.case(standing + 1, rising, (1, 30))).status == "PASS"

    def test_logit_scale_against_controls(self):
        case = self.case([[0, 0, 0, 1]], np.zeros((1, 4)))
        assert gradient_checks.logit_scale(case, None, {}).status == "INFO"
        assert gradient_checks.logit_scale(case, 20.0, {}).status == "INFO"
        assert gradient_checks.logit_scale(case, 1.2, {}).status == "WARN"
        assert gradient_checks.logit_scale(case, 1.2, {"label smoothing": (0.1, 1.0)}).status == "PASS"
        found = gradient_checks.logit_scale(case, 1.2, {"label smoothing": (0.74, 1.0)})
        assert found.status == "WARN" and found.figures["mean_margin"] == 1

    def test_square_of_the_evaluation(self, data):
        _, images, labels = data
        stands, falls = np.zeros(96, bool), np.arange(96) == 5
        network = data[0]
        right = attacks.predict(network, images) == labels
        assert right[5]
        settings = dict(steps=(1,), samples=1, examples=16)
        found = diagnosed(network, data, attacks={"apgd": stands, "square": falls}, **settings)
        assert found[10].status == "WARN" and found[10].figures["fooled"] == 1
        both = diagnosed(network, data, attacks={"apgd": falls, "square": falls}, **settings)
        assert both[10].status == "PASS" and both[10].figures["source"] == "evaluation"
        assert found[18].status == "WARN" and list(found[18].figures["missing"]) == ["apgd", "square"]

    def test_an_ensemble_counts_in_its_parts(self):
        stages = ["apgd-ce", "fab-t", "square"]
        ensemble = SimpleNamespace(
            success=np.array([True, True, False]),
            predictions=np.array([1, 1, 0]),
            fooled_by=np.array(["apgd-ce", "square", ""], object),
            config={"stages": stages, "attacks": {name: {"attack": name} for name in stages}},
        )
        given = evidence.outcomes({"auto_attack": ensemble}, np.zeros(3, int))
        parts = [f"auto_attack: {name}" for name in stages]
        assert list(given) == ["auto_attack", *parts]
        assert [name for name in given if evidence.is_white_box(name, given)] == parts[:2]
        np.testing.assert_array_equal(given["auto_attack: square"].success, [False, True, False])
        found = evaluation_checks.configurations(given)
        assert found.figures["attacks"] == 3 and found.status == "WARN"

    def test_expected_target_logit(self):
        # d = 256 / (32 * 32 * 10) = 0.025
        assert expected_target_logit(1.0, 256, 1024, 10) == pytest.approx(math.log(9 * 0.975 / 0.025))
        with pytest.raises(ValueError, match="must lie between 0 and 1"):
            expected_target_logit(1e3, 256, 1024, 10)


class TestTrajectories:
    def test_agrees_with_pgd(self, data):
        network, images, labels = data
        result = attacks.pgd(network, images, labels, eps=EPS, steps=10, step_size=EPS / 4, batch_size=32)
        examples = Examples(images, labels.astype(np.int32), labels, np.arange(96), np.zeros(96, np.int32))
        settings = dict(eps=EPS, norm="linf", step_size=EPS / 4, steps=10)
        path = trajectories.ascend(network, examples, **settings)
        np.testing.assert_array_equal(path.fooled(labels), result.success)
        np.testing.assert_allclose(path.images[result.success], result.images[result.success], atol=1e-6)
        first = np.argmax(path.predictions != labels, axis=0)
        np.testing.assert_array_equal(first[result.success] + 1, result.queries[result.success])
        other = trajectories.ascend(network, examples, batch_size=7, **settings)
        np.testing.assert_array_equal(other.predictions, path.predictions)

    @pytest.mark.slow
    def test_random_networks_draw_by_example(self, data):
        network, images, labels = data

        def noisy(images, key):
            return network(images + 0.2 * jax.random.normal(key, images.shape))

        examples = Examples(images, labels.astype(np.int32), labels, np.arange(96), np.zeros(96, np.int32))
        settings = dict(eps=EPS, norm="linf", step_size=EPS / 4, steps=3, until_fooled=False)
        paths = [
            trajectories.ascend(networks.randomized(noisy, key), examples, batch_size=size, **settings)
            for key, size in ((0, 32), (0, 48), (1, 32))
        ]
        np.testing.assert_array_equal(paths[0].predictions, paths[1].predictions)
        assert (paths[0].predictions != paths[2].predictions).any()

    def test_float64_needs_float64(self, data):
        network, images, labels = data
        assert trajectories.float64_gradients(network, images[:2], labels[:2]) is None


class TestNetworkFlags:
    def flags(self, function, data, **changes):
        _, images, labels = data
        network, examples = base.prepare(
            function,
            changes.get("images", images),
            changes.get("labels", labels),
            norm="linf",
            eps=0.1,
            batch_size=32,
        )
        logits = networks.logits_of(network, examples.images, batch_size=32)
        return network_flags(network, examples, logits, batch_size=32)

    def test_nothing_odd(self, data):
        assert self.flags(data[0], data) == []

    def test_probabilities(self, data):
        assert any("probabilities" in flag for flag in self.flags(lambda x: jax.nn.softmax(data[0](x)), data))

    def test_changing_answers(self, data):
        generator = np.random.default_rng(0)
        changing = lambda x: data[0](x) + generator.normal(size=10).astype(np.float32)  # noqa: E731
        assert any("two calls" in flag for flag in self.flags(changing, data))
        known = networks.randomized(lambda x, key: data[0](x) + jax.random.normal(key, (10,)))
        assert not any("two calls" in flag for flag in self.flags(known, data))

    def test_wrong_everywhere_and_few_classes_and_no_gradient(self, data):
        def constant(images):
            return jnp.tile(jnp.array([1.0, 0.0]), (len(images), 1))

        flags = self.flags(constant, data, labels=np.ones(96, int))
        assert any("wrong on all 96 clean images" in flag for flag in flags)
        assert any("with 2 classes" in flag for flag in flags)
        assert any("64 of 64 input gradients are zero" in flag for flag in flags)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=()), "steps must be ascending"),
        (dict(steps=(5, 2)), "steps must be ascending"),
        (dict(examples=0), "examples=0 must be"),
        (dict(eps=8), "did you mean 8/255"),
        (dict(norm="l1"), "too weak there; use linf or l2"),
        (dict(attacks={"pgd": np.zeros(5, bool)}), r"attacks\['pgd'\] has \(5,\) entries for 96 labels"),
    ],
)
def test_bad_input(data, change, message):
    with pytest.raises(ValueError, match=message):
        diagnosed(data[0], data, **change)
