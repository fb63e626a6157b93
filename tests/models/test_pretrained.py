import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import topgap_jax as tg
from topgap_jax.models.pretrained import adapt_channels


def torch_state_dict(model):
    """A resnet_narrow in torchvision's keys and layout."""
    tensors = {"bn1.num_batches_tracked": np.array(3)}
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        if path == ("k",):
            continue
        value = np.asarray(leaf.get_value())
        key = ".".join(map(str, path)).removeprefix("backbone.")
        key = re.sub(r"^stages\.(\d)", lambda match: f"layer{int(match[1]) + 1}", key)
        key = key.replace("downsample.conv", "downsample.0").replace("downsample.bn", "downsample.1")
        key = key.replace("head.classifier", "fc")
        for ours, theirs in (("kernel", "weight"), ("scale", "weight"), ("mean", "running_mean")):
            key = re.sub(rf"\.{ours}$", f".{theirs}", key)
        key = re.sub(r"\.var$", ".running_var", key)
        tensors[key] = np.ascontiguousarray(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)
    return tensors


def arrays(model):
    return {
        ".".join(map(str, path)): np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(nnx.state(model))
    }


@pytest.fixture(scope="module")
def original():
    model = tg.create_model("resnet_narrow", 7, head="original", seed=5)
    images = jax.random.uniform(jax.random.key(0), (8, 24, 24, 3))
    model(images, train=True)  # statistics that are not those of the start
    return model


@pytest.fixture
def file(original, tmp_path):
    save_file(torch_state_dict(original), tmp_path / "theirs.safetensors")
    return tmp_path / "theirs.safetensors"


def assert_same(ours, theirs, beginning=""):
    ours, theirs = arrays(ours), arrays(theirs)
    compared = [path for path in ours if path.startswith(beginning)]
    assert compared
    for path in compared:
        np.testing.assert_array_equal(ours[path], theirs[path])


def test_everything_is_loaded_into_the_same_network(original, file):
    assert_same(tg.create_model("resnet_narrow", 7, head="original", pretrained=file), original)


@pytest.mark.parametrize("settings", [{"head": "pyramid"}, {"head": "last"}, {"head": "original"}])
def test_a_new_classifier_keeps_its_fresh_parameters(original, file, settings):
    model = tg.create_model("resnet_narrow", 11, seed=3, pretrained=file, **settings)
    fresh = tg.create_model("resnet_narrow", 11, seed=3, **settings)
    assert_same(model, original, "backbone.")
    assert_same(model, fresh, "head.")


def test_half_precision_is_widened(original, tmp_path):
    tensors = {
        key: value.astype(np.float16) if value.dtype == np.float32 else value
        for key, value in torch_state_dict(original).items()
    }
    save_file(tensors, tmp_path / "half.safetensors")
    model = tg.create_model("resnet_narrow", 7, head="original", pretrained=tmp_path / "half.safetensors")
    for path, value in arrays(model).items():
        assert value.dtype == (np.int32 if path == "k" else np.float32)
    np.testing.assert_allclose(
        arrays(model)["head.classifier.kernel"], original.head.classifier.kernel[...], atol=1e-3
    )


def test_one_channel_sees_what_its_rgb_copy_showed(original, file):
    same = {"head": "original", "pretrained": file}
    grey = tg.create_model("resnet_narrow", 7, in_channels=1, mean=(0.4,), std=(0.2,), **same)
    colour = tg.create_model("resnet_narrow", 7, mean=(0.4,) * 3, std=(0.2,) * 3, **same)
    images = jax.random.uniform(jax.random.key(1), (2, 24, 24, 1))
    np.testing.assert_allclose(grey(images).logits, colour(jnp.tile(images, (1, 1, 1, 3))).logits, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_other_channels_repeat_the_kernel_and_keep_the_size_of_the_response(channels):
    kernel = np.arange(12.0).reshape(2, 3, 1, 2)
    adapted = adapt_channels(kernel, channels)
    assert adapted.shape == (2, channels, 1, 2)
    for channel in range(channels):
        np.testing.assert_allclose(adapted[:, channel], kernel[:, channel % 3] * 3 / channels)
    assert adapt_channels(kernel, 3) is kernel


def test_the_normalisation_of_other_channels_is_the_average():
    model = tg.create_model("resnet_narrow", 5, in_channels=2)
    np.testing.assert_allclose(model.mean, (0.449, 0.449), atol=1e-6)
    np.testing.assert_allclose(model.std, (0.226, 0.226), atol=1e-6)


def drop(key):
    return lambda tensors: tensors.pop(key)


def rename(old, new):
    return lambda tensors: tensors.__setitem__(new, tensors.pop(old))


def spoil(key):
    return lambda tensors: tensors[key].ravel().__setitem__(0, np.nan)


def reshape(key):
    return lambda tensors: tensors.__setitem__(key, np.zeros((3, 3), np.float32))


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (drop("layer2.0.bn1.bias"), ["1 differences", "backbone.stages.1.0.bn1.bias: missing"]),
        (
            rename("conv1.weight", "conv_1.weight"),
            ["2 differences", "conv_1.weight: unknown", "backbone.conv1.kernel: missing"],
        ),
        (spoil("layer1.0.conv2.weight"), ["1 differences", "layer1.0.conv2.weight: NaN or infinite"]),
        (
            reshape("layer1.0.conv2.weight"),
            ["1 differences", r"layer1.0.conv2.weight: shape \(3, 3\), not \(32, 32, 3, 3\)"],
        ),
        (rename("fc.weight", "linear.bias"), ["fc.bias|linear.bias", "head.classifier.kernel: missing"]),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(original, tmp_path, damage, messages):
    tensors = torch_state_dict(original)
    damage(tensors)
    save_file(tensors, tmp_path / "damaged.safetensors")
    with pytest.raises(ValueError, match="Nothing was loaded") as error:
        tg.create_model("resnet_narrow", 7, head="original", pretrained=tmp_path / "damaged.safetensors")
    for message in messages:
        assert re.search(message, str(error.value)), error.value
    assert "damaged.safetensors does not fit resnet_narrow" in str(error.value)


def test_another_architecture_is_refused_with_ten_names_and_the_count(file):
    with pytest.raises(ValueError, match="does not fit resnet50") as error:
        tg.create_model("resnet50", 7, head="original", pretrained=file)
    lines = str(error.value).splitlines()
    count = int(re.search(r"(\d+) differences", lines[0])[1])
    assert count > 100
    assert len([line for line in lines if re.search("missing|unknown|shape", line)]) == 10
    assert f"and {count - 10} more" in lines[-2]


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_half_a_file_is_refused(file, tmp_path, share):
    whole = file.read_bytes()
    half = tmp_path / "half.safetensors"
    half.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"half\.safetensors' is not a whole safetensors file"):
        tg.create_model("resnet_narrow", 7, pretrained=half)


def test_bad_sources(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    for source, message in (
        (tmp_path / "none.safetensors", "there is no file of weights"),
        (tmp_path / "weights.h5", r"neither a file of weights \(\.safetensors, \.pth"),
        ("package:topgap_no_such", "package 'topgap_no_such' is not installed"),
        ("package:chex", "must contain one file of weights, not 0"),
        ("hf:resnet18", "must have the form hf:OWNER/NAME"),
    ):
        with pytest.raises(ValueError, match=message):
            tg.create_model("resnet_narrow", 7, pretrained=source)


def test_a_saved_model_comes_back_whole(tmp_path):
    model = tg.create_model(
        "resnet_narrow", 4, k=5, pyramid_channels=8, in_channels=2, mean=(0.1, 0.2), std=(0.3, 0.4), seed=9
    )
    images = jax.random.uniform(jax.random.key(0), (3, 24, 24, 2))
    model(images, train=True)
    tg.save_model(model, tmp_path / "ours.safetensors")
    again = tg.load_model(tmp_path / "ours.safetensors")
    assert again.settings == model.settings and int(again.k[...]) == 5
    assert_same(again, model)
    np.testing.assert_array_equal(again(images).logits, model(images).logits)
    assert nnx.graphdef(again) == nnx.graphdef(model)  # so that nothing compiles anew


def test_our_own_file_starts_another_model(tmp_path):
    model = tg.create_model("resnet_narrow", 4, pyramid_channels=8, mean=(0.1,) * 3, std=(0.3,) * 3, seed=9)
    tg.save_model(model, tmp_path / "ours.safetensors")
    other = tg.create_model("resnet_narrow", 6, pretrained=tmp_path / "ours.safetensors")
    assert_same(other, model, "backbone.")
    assert_same(other, tg.create_model("resnet_narrow", 6), "head.")
    assert other.mean == (0.1,) * 3
    same = tg.create_model(
        "resnet_narrow", 4, pyramid_channels=8, k=3, pretrained=tmp_path / "ours.safetensors"
    )
    assert_same(same, model, "head.")
    with pytest.raises(ValueError, match=r"ours.safetensors does not fit preact_resnet18: \d+ differences"):
        tg.create_model("preact_resnet18", 4, pretrained=tmp_path / "ours.safetensors")


def test_saving_and_loading_say_what_they_need(file, tmp_path):
    model = tg.create_model("resnet_narrow", 4)
    with pytest.raises(ValueError, match=r"'.*model.pth': a model is saved as .safetensors"):
        tg.save_model(model, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"does not say which model it belongs to: use create_model"):
        tg.load_model(file)
    model.settings = ()
    with pytest.raises(ValueError, match="only a model that create_model made"):
        tg.save_model(model, tmp_path / "model.safetensors")


def test_the_hub(original, tmp_path, monkeypatch):
    """A repository in the cache of the hub's real client, which may not use the network."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--someone--narrow"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(torch_state_dict(original), snapshot / "model.safetensors")
    stated = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 0.3]}}
    (snapshot / "config.json").write_text(json.dumps(stated))
    model = tg.create_model("resnet_narrow", 7, head="original", pretrained="hf:someone/narrow")
    assert_same(model, original)
    assert model.mean == (0.5, 0.5, 0.5) and model.std == (0.1, 0.2, 0.3)
    with pytest.raises(
        ValueError, match="hf:someone/other is not in the cache, and the hub cannot be reached"
    ):
        tg.create_model("resnet_narrow", 7, pretrained="hf:someone/other")


def test_settings_are_in_the_metadata(tmp_path):
    tg.save_model(tg.create_model("resnet_narrow", 4, k=6), tmp_path / "ours.safetensors")
    assert "head.classifier.kernel" in load_file(tmp_path / "ours.safetensors")
    header = Path(tmp_path / "ours.safetensors").read_bytes()[8:2000]
    assert b"resnet_narrow" in header and rb"\"k\": 6" in header
