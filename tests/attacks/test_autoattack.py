"""The ensemble: worst case per example, the same whatever the batch, and back where it was after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from topgap_jax import attacks
from topgap_jax.attacks.autoattack import APGD_CE, APGD_T, FAB_T, VERSIONS
from topgap_jax.attacks.square import square

EPS = 0.12
# The standard ensemble with fewer steps.
SHORT = {
    "apgd-ce": partial(APGD_CE, steps=10),
    "apgd-t": partial(APGD_T, steps=5, num_targets=3),
    "fab-t": partial(FAB_T, steps=5, num_targets=2),
    "square": partial(square, queries=40),
}


@pytest.fixture(scope="module")
def short(trained):
    network, images, labels = trained
    return attacks.auto_attack(network, images[:80], labels[:80], eps=EPS, version=SHORT, batch_size=64)


class TestEnsemble:
    def test_versions_are_those_of_the_paper(self):
        assert list(VERSIONS["standard"]) == ["apgd-ce", "apgd-t", "fab-t", "square"]
        assert list(VERSIONS["rand"]) == ["apgd-ce", "apgd-dlr"]
        assert set(VERSIONS["plus"]) == {"apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"}

    def test_standard_leaves_nothing_of_an_undefended_network(self, trained):
        network, images, labels = trained
        result = attacks.auto_attack(network, images[:64], labels[:64], eps=0.3)
        assert result.robust_accuracy["clean"] > 0.9
        assert result.success.all() and min(result.robust_accuracy.values()) == 0

    def test_every_success_is_an_adversarial_image_in_the_ball(self, trained, short):
        network, images, labels = trained
        predictions = attacks.predict(network, short.images)
        np.testing.assert_array_equal(predictions, short.predictions)
        np.testing.assert_array_equal(predictions != labels[:80], short.success)
        assert np.abs(short.images - images[:80]).max() <= EPS + 1e-6
        assert short.images.min() >= 0 and short.images.max() <= 1
        np.testing.assert_array_equal(short.images[~short.success], images[:80][~short.success])

    def test_accuracy_counts_down_attack_by_attack(self, short):
        standing = list(short.robust_accuracy.values())
        assert standing == sorted(standing, reverse=True) and 0 < standing[-1] < standing[0]
        for before, (name, after) in zip(standing, list(short.robust_accuracy.items())[1:], strict=False):
            assert (short.fooled_by == name).mean() == pytest.approx(before - after)
        assert ((short.fooled_by == "") == ~short.success).all()

    def test_settings_of_every_attack_are_in_the_result(self, short):
        config = json.loads(json.dumps(short.config))
        assert set(config["attacks"]) == set(SHORT)
        assert config["attacks"]["apgd-ce"]["steps"] == 10 and config["eps"] == EPS
        assert all(settings["eps"] == pytest.approx(EPS) for settings in config["attacks"].values())

    @pytest.mark.parametrize("batch_size", [7, pytest.param(256, marks=pytest.mark.slow)])
    def test_batch_size_changes_nothing(self, trained, short, batch_size):
        network, images, labels = trained
        other = attacks.auto_attack(
            network, images[:80], labels[:80], eps=EPS, version=SHORT, batch_size=batch_size
        )
        np.testing.assert_array_equal(other.success, short.success)
        np.testing.assert_array_equal(other.fooled_by, short.fooled_by)
        np.testing.assert_array_equal(other.queries, short.queries)

    def test_order_and_company_change_nothing(self, trained, short):
        network, images, labels = trained
        rows = np.arange(79, 19, -1)
        other = attacks.auto_attack(
            network, images[rows], labels[rows], eps=EPS, version=SHORT, indices=rows, batch_size=32
        )
        np.testing.assert_array_equal(other.success, short.success[rows])
        np.testing.assert_array_equal(other.queries, short.queries[rows])

    def test_few_classes(self, trained):
        network, images, labels = trained
        few = labels < 3
        result = attacks.auto_attack(
            lambda x: network(x)[:, :3], images[few][:16], labels[few][:16], eps=0.3, version=SHORT
        )
        assert result.success.all()
        assert any("with 3 classes" in flag for flag in result.flags)


class TestFlags:
    def test_probabilities(self, trained):
        network, images, labels = trained
        assert "probabilities" in " ".join(self.flags(lambda x: jax.nn.softmax(network(x)), images, labels))
        assert not self.flags(network, images, labels)

    def test_randomised_network_in_the_standard_version(self, trained):
        network, images, labels = trained

        def noisy(images, key):
            return network(images) + 0.1 * jax.random.normal(key, (len(images), 10))

        assert 'version="rand"' in " ".join(self.flags(attacks.randomized(noisy), images, labels))

    def test_network_that_changes_between_calls(self, trained):
        network, images, labels = trained
        calls = iter(range(10**6))

        def changing(x):
            count = jax.pure_callback(
                lambda: np.float32(next(calls) % 2), jax.ShapeDtypeStruct((), jnp.float32)
            )
            return network(x) + 1e-3 * count * jnp.arange(10)

        assert "two calls" in " ".join(self.flags(changing, images, labels))

    def test_wrong_on_every_image(self, trained):
        network, images, _ = trained
        wrong = (attacks.predict(network, images) + 1) % 10
        result = attacks.auto_attack(network, images, wrong, eps=EPS, version=SHORT)
        assert result.robust_accuracy == {"clean": 0.0}
        assert "wrong on all 200 clean images" in " ".join(result.flags)
        assert (result.fooled_by == "clean").all()

    @staticmethod
    def flags(network, images, labels):
        version = {"apgd-ce": partial(APGD_CE, steps=1)}
        return attacks.auto_attack(network, images[:16], labels[:16], eps=0.01, version=version).flags


class TestRandomised:
    def test_rand_beats_one_draw_where_noise_hides_the_gradient(self, trained):
        """Noise on the gradient's direction: one draw walks at random, the mean of 20 does not."""
        network, images, labels = trained

        def noisy(images, key):
            direction = jax.random.normal(key, images.shape)
            return network(images) + 10 * ((images - jax.lax.stop_gradient(images)) * direction).sum(
                (1, 2, 3)
            )[:, None] * jnp.arange(10)

        randomised = attacks.randomized(noisy)
        success = {
            eot: attacks.apgd(
                randomised, images[:64], labels[:64], eps=0.08, steps=20, eot=eot
            ).success.mean()
            for eot in (1, 20)
        }
        assert success[20] > success[1] + 0.1

    @pytest.mark.slow
    def test_draws_do_not_depend_on_the_batch(self, trained):
        network, images, labels = trained

        def noisy(images, key):
            return network(images) + 0.5 * jax.random.normal(key, (len(images), 10))

        results = [
            attacks.apgd(
                attacks.randomized(noisy, key=3), images[:40], labels[:40], eps=EPS, steps=5, batch_size=size
            )
            for size in (7, 32)
        ]
        np.testing.assert_array_equal(results[0].success, results[1].success)
        np.testing.assert_array_equal(results[0].queries, results[1].queries)


class TestBadInput:
    @pytest.mark.parametrize("eps", [0, -0.1, float("nan")])
    def test_eps_that_is_no_radius(self, trained, eps):
        with pytest.raises(ValueError, match="must be positive"):
            attacks.auto_attack(*trained, eps=eps)

    def test_eps_in_the_wrong_unit(self, trained):
        with pytest.raises(ValueError, match="did you mean 8/255"):
            attacks.auto_attack(*trained, eps=8)

    def test_unknown_version_and_norm(self, trained):
        with pytest.raises(ValueError, match="unknown version 'strong'; there are standard, plus, rand"):
            attacks.auto_attack(*trained, eps=EPS, version="strong")
        with pytest.raises(ValueError, match="unknown norm 'l3'"):
            attacks.auto_attack(*trained, eps=EPS, norm="l3")

    def test_images_and_labels_out_of_range(self, trained):
        network, images, labels = trained
        with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
            attacks.auto_attack(network, 2 * images, labels, eps=EPS)
        with pytest.raises(ValueError, match=r"labels\[0\] is 10"):
            attacks.auto_attack(network, images, np.full(len(labels), 10), eps=EPS)

    def test_nan_logits(self, trained):
        network, images, labels = trained
        with pytest.raises(ValueError, match="returned NaN"):
            attacks.auto_attack(lambda x: network(x) / 0 * 0, images, labels, eps=EPS)


JOB = Path(__file__).parent / "autoattack_job.py"


def job(directory, *arguments, devices=1):
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, str(JOB), str(directory), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def lines(directory):
    path = directory / "evaluation" / "outcomes.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    process = job(directory)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output.decode()
    return directory


@pytest.mark.slow
class TestProcesses:
    def test_killed_and_started_again(self, tmp_path, uninterrupted):
        total = lines(uninterrupted)
        for share in (0.3, 0.7):
            process = job(tmp_path)
            while process.poll() is None and lines(tmp_path) < share * total:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert share * total <= lines(tmp_path) < total
        process = job(tmp_path)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output.decode()
        self.assert_same(uninterrupted, tmp_path)
        # An attempt that was written is not made again, and none is missing.
        assert self.attempts(tmp_path) == self.attempts(uninterrupted)

    def test_eight_devices(self, tmp_path, uninterrupted):
        process = job(tmp_path, devices=8)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output.decode()
        ours, theirs = (np.load(directory / "result.npz") for directory in (uninterrupted, tmp_path))
        assert theirs["devices"] == 8
        assert (ours["success"] != theirs["success"]).mean() <= 0.01

    @staticmethod
    def attempts(directory):
        found = map(json.loads, (directory / "evaluation" / "outcomes.jsonl").read_text().splitlines())
        return sorted((line["attack"], line["example"], line["attempt"], line["queries"]) for line in found)

    @staticmethod
    def assert_same(first, second):
        ours, theirs = (np.load(directory / "result.npz") for directory in (first, second))
        for name in ("success", "fooled_by", "queries", "images"):
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


class TestJournal:
    def test_goes_on_without_new_work(self, trained, tmp_path):
        network, images, labels = trained
        passes = []

        def counted(x):
            passes.append(x.shape)
            return network(x)

        settings = dict(eps=EPS, version=SHORT, directory=tmp_path)
        first = attacks.auto_attack(Partial(counted), images[:40], labels[:40], **settings)
        written = (tmp_path / "outcomes.jsonl").read_bytes()
        again = attacks.auto_attack(Partial(counted), images[:40], labels[:40], **settings)
        assert (tmp_path / "outcomes.jsonl").read_bytes() == written
        for name in ("images", "success", "queries", "predictions", "fooled_by", "distance"):
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name), err_msg=name)

    @pytest.mark.slow
    def test_half_a_line_is_cut_off(self, trained, tmp_path):
        network, images, labels = trained
        settings = dict(eps=EPS, version=SHORT, directory=tmp_path)
        first = attacks.auto_attack(network, images[:40], labels[:40], **settings)
        path = tmp_path / "outcomes.jsonl"
        written = path.read_text()
        path.write_text(written[:-30])
        again = attacks.auto_attack(network, images[:40], labels[:40], **settings)
        np.testing.assert_array_equal(first.success, again.success)
        np.testing.assert_array_equal(first.queries, again.queries)
        *kept, last = path.read_text().splitlines()
        *expected, cut = written.splitlines()
        assert kept == expected
        # The attempt that was cut off is made again in a smaller batch, where its loss may round differently.
        ours, theirs = json.loads(last), json.loads(cut)
        assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-3)
        assert ours == theirs

    @pytest.mark.parametrize("change", ["images", "eps", "network", "key"])
    def test_another_evaluation_is_refused(self, trained, tmp_path, change):
        network, images, labels = trained
        images, labels = images[:16], labels[:16]
        settings = dict(eps=EPS, version={"square": partial(square, queries=2)}, directory=tmp_path)
        attacks.auto_attack(network, images, labels, **settings)
        if change == "images":
            images = 0.5 * images
        elif change == "network":
            network = attacks.logits_fn(network)
            network = Partial(network.func, jax.tree.map(lambda leaf: 2 * leaf, network.args[0]))
        else:
            settings[change] = 0.2 if change == "eps" else 1
        expected = {"network": "parameters"}.get(change, change)
        with pytest.raises(ValueError, match=rf"is of another evaluation \({expected}: "):
            attacks.auto_attack(network, images, labels, **settings)

    def test_lines_say_what_happened(self, trained, tmp_path):
        network, images, labels = trained
        indices = np.arange(40) + 1000
        result = attacks.auto_attack(
            network, images[:40], labels[:40], eps=EPS, version=SHORT, directory=tmp_path, indices=indices
        )
        found = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
        for index, name, distance in zip(indices, result.fooled_by, result.distance, strict=True):
            hits = [line for line in found if line["example"] == index and line["success"]]
            assert [line["attack"] for line in hits] == ([] if name in ("", "clean") else [name])
            assert all(line["distance"] == pytest.approx(distance, abs=1e-6) for line in hits)
