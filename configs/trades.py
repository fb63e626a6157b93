"""TRADES: cross-entropy of the clean images, and divergence of their neighbours, on Fashion-MNIST.

Command:  python main.py --config=configs/trades.py --workdir=runs/trades
          (docs/datasets/fashion_mnist.md says how data/fashion_mnist is made)
Hardware: two CPU cores
Time:     not measured yet; ten passes for the attack come before each step
Expected: not measured yet
Choices:  beta, steps and (rounded) step as in Zhang et al. (2019); network, optimiser and epochs are ours.
"""

import ml_collections

EPS = 8 / 255


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "TRADES"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "preact_resnet_narrow"
    config.model.head = "original"
    config.model.pool = "mean"

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 0.0

    config.adversarial = ml_collections.ConfigDict()
    config.adversarial.method = "trades"
    config.adversarial.eps = EPS
    config.adversarial.step_size = 2 / 255
    config.adversarial.steps = 10
    config.adversarial.beta = 6.0

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
