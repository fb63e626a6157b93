"""Squared l2 logit squeezing as a control for Top-GAP: the same confidence, and no map, on Fashion-MNIST.

Command:  python main.py --config=configs/logit_squeezing.py --workdir=runs/logit_squeezing
          (docs/datasets/fashion_mnist.md says how data/fashion_mnist is made)
Hardware: two CPU cores
Time:     that of plain training: about half of configs/fashion_mnist.py with its twin
Expected: docs/table4.md compares it with the others after one epoch
Choices:  the weight matches Top-GAP with k=98 and lambda=1 on this network (configs/topgap_pgd_at.py).
"""

import ml_collections

CLASSES, STRENGTH = 10, 0.05  # its optimum: the true class has the probability 1 - STRENGTH, as with Top-GAP
MARGIN = 5.1417  # ln((CLASSES - 1) (1 - STRENGTH) / STRENGTH): so far apart are logits of that confidence

# Where cross-entropy + WEIGHT * |z|^2 has that optimum (docs/competitors.md).
WEIGHT = STRENGTH * CLASSES / (2 * (CLASSES - 1) * MARGIN)


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "Logit squeezing"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "preact_resnet_narrow"
    config.model.head = "original"
    config.model.pool = "mean"

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 0.0
    config.loss.logit_squeezing = WEIGHT

    config.data = ml_collections.ConfigDict()
    config.data.source = "npz:data/fashion_mnist"
    config.data.validation = "validation"
    config.data.test = ("test",)
    config.data.augment = ("pad_crop:2", "horizontal_flip")

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.01
    config.optimizer.schedule = "one_cycle"
    config.optimizer.beta2 = 0.99
    config.optimizer.weight_decay = 0.1

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 128
    config.train.epochs = 5
    config.train.log_every_steps = 50
    config.train.checkpoint_every_steps = 500

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.attacks = ("paper_fgsm", "paper_pgd20", "pgd50")
    config.evaluation.attack_eps = 8 / 255
    config.evaluation.attack_examples = 512
    return config
