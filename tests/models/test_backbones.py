"""Every family of backbones: parameters to the digit, and what its constructor's arguments do.

Beside the counts, each family is a network of a few blocks with random weights and statistics.
"""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import topgap_jax as tg
from topgap_jax.models.classifier import Classifier
from topgap_jax.models.convnext import ConvNeXt, ConvNeXtHead
from topgap_jax.models.densenet import DenseNet
from topgap_jax.models.efficientnet import EfficientNet
from topgap_jax.models.preact_resnet import PreActBlock, PreActResNet
from topgap_jax.models.ra_wide_resnet import RaWideResNet
from topgap_jax.models.resnet import Bottleneck, ResNet
from topgap_jax.models.vgg import VGG, VGGHead
from topgap_jax.models.wide_resnet import WideResNet

CLASSES = 3

FAMILIES = {
    "resnet": partial(ResNet, (2, 1), Bottleneck, widths=(8, 16), strides=(1, 2)),
    "preact_resnet": partial(PreActResNet, (2, 1), PreActBlock, widths=(8, 16)),
    "wide_resnet": partial(WideResNet, 10, 1),
    "ra_wide_resnet": partial(RaWideResNet, (2, 1), (8, 16), 8),
    "convnext": partial(ConvNeXt, (2, 1), (8, 16)),
    "efficientnet": partial(EfficientNet, 0.25, 0.3),
    "vgg": partial(VGG, (1, 1, 2, 1, 1), widths=(8, 8, 16, 16, 16)),
    "densenet": partial(DenseNet, (2, 1), growth=8),
}
DROPPING = {
    "resnet": {"drop_path": 0.5},
    "preact_resnet": {"drop_path": 0.5},
    "wide_resnet": {"block_dropout": 0.5},
    "convnext": {"drop_path": 0.5},
    "efficientnet": {"drop_path": 0.5},
    "densenet": {"block_dropout": 0.5},
}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
# Whole training steps take seconds to compile: two families run always, all of them in `make test-slow`.
QUICK_FAMILIES = ("preact_resnet", "vgg")


def trained(family, *tolerances):
    marks = () if family in QUICK_FAMILIES else pytest.mark.slow
    return pytest.param(family, *tolerances, marks=marks)


def create(family, *, head="last", in_channels=3, dtype=jnp.float32, **settings):
    """A classifier of shapes only."""

    def build():
        rngs = nnx.Rngs(0)
        backbone = FAMILIES[family](in_channels=in_channels, dtype=dtype, rngs=rngs, **settings)
        mean, std = (0.5,) * in_channels, (0.25,) * in_channels
        return Classifier(
            backbone, CLASSES, head=head, pool="mean", mean=mean, std=std, dtype=dtype, rngs=rngs
        )

    return nnx.eval_shape(build)


def split(model):
    """Its definition, and as plain dicts parameters and statistics in which nothing is 0 or 1."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        name = path[-1].key
        if name == "kernel":
            values = rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
        elif name in ("bias", "mean"):
            values = rng.normal(0, 0.2, leaf.shape)
        else:
            values = rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return graphdef, *(
        jax.tree_util.tree_map_with_path(drawn, nnx.to_pure_dict(state)) for state in (params, rest)
    )


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), (4, 40, 33, 3))


def forward(graphdef, params, rest, images, key=None, *, train=False):
    return nnx.merge(graphdef, params, rest)(images, train=train, key=key)


# The programs run once: compiling them well would take most of the time.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@cache
def training_steps(family, *, seeds, **settings):
    """Loss, maps, running statistics and gradients of one step from the same weights with every seed."""
    graphdef, params, rest = split(create(family, **DROPPING.get(family, {}), **settings))

    def loss(params, images, key):
        model = nnx.merge(graphdef, params, rest)
        out = model(images, train=True, key=key)
        value = jnp.square(out.logits).mean() + jnp.square(out.features[0].astype(jnp.float32)).mean()
        return value, (out.features, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    images = jax.random.uniform(jax.random.key(0), (4, 40, 33, 3))
    return [
        (value, *aux, gradients)
        for (value, aux), gradients in (step(params, images, jax.random.key(seed)) for seed in seeds)
    ]


def shapes_of_maps(model, size):
    """Height and width of every map for images of that size; nothing is computed."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    images = jax.ShapeDtypeStruct((1, *size, len(model.mean)), jnp.float32)
    out = jax.eval_shape(partial(forward, graphdef), params, rest, images)
    return [features.shape[1:3] for features in out.features]


def assert_close(ours, expected, tolerance):
    """Trees of the same form; in every leaf the difference is small against the leaf's norm.

    Leaves that are 0 up to rounding (the gradient of a bias before BatchNorm) are held against the others.
    """
    largest = max((np.linalg.norm(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(expected)), default=0)

    def compare(path, ours, expected):
        ours, expected = np.asarray(ours, np.float32), np.asarray(expected, np.float32)
        scale = max(np.linalg.norm(expected), 0.01 * largest)
        difference = np.linalg.norm(ours - expected) / scale
        assert difference <= tolerance, f"{jax.tree_util.keystr(path)}: {difference}"

    jax.tree_util.tree_map_with_path(compare, ours, expected)


def parameters(name, classes, head):
    model = nnx.eval_shape(lambda: tg.create_model(name, classes, head=head))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


# Table 1 of the paper: the network as it was published, and with the pyramid in place of its classifier.
# The table prints 8.03M for DenseNet-121 with the pyramid. No number of classes gives that: the pyramid's
# convolutions alone, 256 filters of 3x3 on 256, 512, 1024 and 1024 channels, have 6.5M. This is ours.
@pytest.mark.parametrize(
    ("name", "classes", "original", "pyramid"),
    [
        ("vgg11_bn", 1000, 132_868_840, 12_432_872),
        ("efficientnet_b0", 53, 4_075_441, 4_752_817),
        ("densenet121", 1000, 7_978_856, 13_699_944),
        ("resnet18", 1000, 11_689_512, 13_646_376),
        ("convnext_tiny", 200, 27_973_928, 31_188_776),
    ],
)
def test_parameters_of_table_1(name, classes, original, pyramid):
    assert parameters(name, classes, "original") == original
    assert parameters(name, classes, "pyramid") == pyramid


def test_the_papers_count_of_densenet_is_out_of_reach():
    fewest = parameters("densenet121", 2, "pyramid")
    assert fewest > 8_035_000


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        # timm and torchvision
        ("resnet34", 1000, 21_797_672),
        ("resnet50", 1000, 25_557_032),
        ("resnet101", 1000, 44_549_160),
        ("resnet152", 1000, 60_192_808),
        ("convnext_tiny", 1000, 28_589_128),
        ("convnext_small", 1000, 50_223_688),
        ("convnext_base", 1000, 88_591_464),
        ("efficientnet_b0", 1000, 5_288_548),
        ("efficientnet_b1", 1000, 7_794_184),
        ("efficientnet_b2", 1000, 9_109_994),
        ("efficientnet_b3", 1000, 12_233_232),
        ("tf_efficientnet_b0", 1000, 5_288_548),
        ("efficientnet_lite0", 1000, 4_652_008),
        ("vgg16_bn", 1000, 138_365_992),
        # the literature on CIFAR-10
        ("cifar_resnet18", 10, 11_173_962),
        ("cifar_resnet34", 10, 21_282_122),
        ("cifar_resnet50", 10, 23_520_842),
        ("preact_resnet18", 10, 11_172_170),
        ("preact_resnet34", 10, 21_280_330),
        ("preact_resnet50", 10, 23_513_162),
        ("wide_resnet28_10", 10, 36_479_194),
        ("wide_resnet40_4", 10, 8_949_210),
        ("ra_wide_resnet70_16", 10, 267_240_802),
    ],
)
def test_parameters_of_the_published_networks(name, classes, expected):
    assert parameters(name, classes, "original") == expected


@pytest.mark.parametrize("family", [trained(family) for family in FAMILIES])
def test_remat_changes_nothing_but_the_memory(family):
    plain = training_steps(family, seeds=(0, 1))
    again = training_steps(family, remat=True, seeds=(0,))
    for ours, expected in zip(again[0], plain[0], strict=True):
        assert_close(ours, expected, 3e-5)
    # Where there is something to drop, another key drops something else.
    maps = [np.asarray(features[-1]) for _, features, _, _ in plain]
    assert np.array_equal(*maps) == (family not in DROPPING)


def test_remat_keeps_less_for_the_backward_pass(images):
    def blocks_again(remat):
        graphdef, params, rest = split(create("convnext", remat=remat))

        def loss(params):
            return forward(graphdef, params, rest, images).logits.sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("remat")

    assert blocks_again(True) > blocks_again(False) == 0


@pytest.mark.parametrize("family", DROPPING)
def test_dropping_needs_a_key_and_leaves_evaluation_alone(family, images):
    graphdef, params, rest = split(create(family, **DROPPING[family]))
    with pytest.raises(ValueError, match="needs a key while training"):
        jax.eval_shape(partial(forward, graphdef, train=True), params, rest, images)
    plain, _, _ = split(create(family))
    programs = [jax.make_jaxpr(partial(forward, g))(params, rest, images) for g in (graphdef, plain)]
    assert without_addresses(programs[0]) == without_addresses(programs[1])


def without_addresses(program):
    return re.sub(r"0x[0-9a-f]+", "", str(program))


# What training in bfloat16 may differ by: a value is rounded to 2^-9 of itself after every layer, and
# BatchNorm over few positions magnifies it.
@pytest.mark.parametrize(
    ("family", "maps", "statistics"),
    [
        trained("resnet", 0.03, 0.01),
        trained("preact_resnet", 0.03, 0.01),
        trained("wide_resnet", 0.03, 0.01),
        trained("ra_wide_resnet", 0.03, 0.01),
        trained("convnext", 0.03, 0.01),
        trained("efficientnet", 0.12, 0.03),
        trained("vgg", 0.03, 0.01),
        trained("densenet", 0.03, 0.01),
    ],
)
def test_bfloat16(family, maps, statistics):
    (_, full_maps, full_statistics, _), _ = training_steps(family, seeds=(0, 1))
    ((_, half_maps, half_statistics, gradients),) = training_steps(family, dtype=jnp.bfloat16, seeds=(0,))
    assert {leaf.dtype for leaf in half_maps} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves((half_statistics, gradients))} == {jnp.dtype(jnp.float32)}
    assert_close(half_maps, full_maps, maps)
    assert_close(half_statistics, full_statistics, statistics)


@EVERY_FAMILY
@pytest.mark.parametrize("train", [False, True])
def test_every_product_of_the_backbone_is_in_bfloat16(family, train, images):
    graphdef, params, rest = split(create(family, dtype=jnp.bfloat16))

    def features(params, rest):
        backbone = nnx.merge(graphdef, params, rest).backbone
        return backbone(images.astype(jnp.bfloat16), train=train)

    program = str(jax.make_jaxpr(features)(params, rest))
    products = re.findall(r"(\w+)\[[\d,]*\] = (?:conv_general_dilated|dot_general)\b", program)
    assert products and set(products) == {"bf16"}


@EVERY_FAMILY
@pytest.mark.parametrize("channels", [1, 5])
def test_channels_of_the_images(family, channels):
    model, usual = create(family, in_channels=channels), create(family)
    assert shapes_of_maps(model, (40, 33)) == shapes_of_maps(usual, (40, 33))
    shapes, usual = (
        {path: leaf.shape for path, leaf in nnx.to_flat_state(nnx.state(each))} for each in (model, usual)
    )
    ((stem, shape),) = ((path, usual[path]) for path in usual if shapes[path] != usual[path])
    assert shapes[stem] == (*shape[:2], channels, shape[3])


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("resnet50", 0.0, 0.2),
        ("preact_resnet18", 0.0, 0.2),
        ("convnext_tiny", 0.0, 0.2),
        ("efficientnet_b0", 0.0, 0.2 * 15 / 16),
    ],
)
def test_drop_path_rises_to_the_last_block(name, first, last):
    model = nnx.eval_shape(lambda: tg.create_model(name, CLASSES, drop_path=0.2))
    rates = [block.drop_path for blocks in model.backbone.stages for block in blocks]
    np.testing.assert_allclose(rates, np.linspace(first, last, len(rates)))


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *(
            (name, "drop_path")
            for name in ("vgg11_bn", "densenet121", "wide_resnet40_4", "ra_wide_resnet70_16")
        ),
        *((name, "block_dropout") for name in ("resnet18", "preact_resnet18", "convnext_tiny", "vgg16_bn")),
    ],
)
def test_rates_that_a_network_does_not_have_are_refused(name, setting):
    with pytest.raises(ValueError, match=f"^{setting}=0.1: {name} was published without it$"):
        tg.create_model(name, CLASSES, **{setting: 0.1})


@pytest.mark.parametrize(
    ("name", "head", "smallest"),
    [
        ("convnext_tiny", "last", 32),
        ("densenet121", "last", 29),
        ("vgg11_bn", "last", 16),
        ("vgg11_bn", "original", 32),
    ],
)
def test_images_that_are_too_small(name, head, smallest):
    model = nnx.eval_shape(lambda: tg.create_model(name, CLASSES, head=head, pool="mean"))
    assert min(min(shape) for shape in shapes_of_maps(model, (smallest, smallest + 9))) > 0
    for size in ((smallest - 1, 50), (50, smallest - 1)):
        with pytest.raises(ValueError, match="too small"):
            shapes_of_maps(model, size)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"convnext", "densenet", "vgg"}))
def test_the_others_take_a_single_pixel(family):
    assert set(shapes_of_maps(create(family), (1, 1))) == {(1, 1)}


@EVERY_FAMILY
def test_the_cam_of_the_original_head_adds_up_to_the_logits(family, images):
    graphdef, params, rest = split(create(family, head="original"))
    out = jax.jit(partial(forward, graphdef), compiler_options=QUICK)(params, rest, images)
    head = params["head"]
    offset = head["classifier"]["bias"]
    if family == "convnext":
        offset += head["norm"]["bias"] @ head["classifier"]["kernel"]
    assert np.std(out.logits) > 0.01
    np.testing.assert_allclose(out.cam.mean((1, 2)) + offset, out.logits, rtol=0, atol=1e-4)
    assert out.cam.shape[1:3] == ((1, 1) if family == "vgg" else out.features[-1].shape[1:3])


def test_the_cam_of_convnext_is_the_formula_of_its_head():
    head = nnx.merge(*split(nnx.eval_shape(lambda: ConvNeXtHead(8, CLASSES, rngs=nnx.Rngs(0)))))
    x = np.random.default_rng(1).normal(1, 2, (2, 3, 5, 8))
    pooled = x.mean((1, 2))
    deviation = np.sqrt(pooled.var(-1) + 1e-6)[:, None, None, None]
    kernel = np.asarray(head.classifier.kernel[...])
    cam = (x - x.mean(-1, keepdims=True)) / deviation * np.asarray(head.norm.scale[...]) @ kernel
    offset = head.norm.bias[...] @ kernel + head.classifier.bias[...]
    logits, ours = head(jnp.float32(x))
    np.testing.assert_allclose(ours, cam, atol=1e-4)
    np.testing.assert_allclose(logits, cam.mean((1, 2)) + offset, atol=1e-4)


def test_the_cam_of_efficientnet_has_one_value_per_position_of_the_last_map():
    graphdef, params, rest = split(create("efficientnet", head="original"))
    head = nnx.merge(graphdef, params, rest).head
    x = jax.random.normal(jax.random.key(0), (1, 3, 4, head.expand.conv.in_features))
    changed = head(x)[1] != head(x.at[:, 1, 2].add(1.0))[1]
    np.testing.assert_array_equal(np.argwhere(changed.any(-1)), [[0, 1, 2]])


@pytest.mark.parametrize(
    "build", [partial(ConvNeXtHead, 8), partial(VGGHead, 8, hidden=16)], ids=["convnext", "vgg"]
)
def test_dropout_of_the_original_head(build):
    head = nnx.merge(*split(nnx.eval_shape(lambda: build(CLASSES, dropout=0.5, rngs=nnx.Rngs(0)))))
    plain = nnx.merge(*split(nnx.eval_shape(lambda: build(CLASSES, rngs=nnx.Rngs(0)))))
    x = jax.random.uniform(jax.random.key(0), (4, 3, 2, 8))
    with pytest.raises(ValueError, match="needs a key while training"):
        head(x, train=True)
    logits = [head(x, train=True, key=jax.random.key(seed))[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert not np.array_equal(logits[0], logits[2])
    np.testing.assert_array_equal(head(x)[0], plain(x, train=True)[0])
