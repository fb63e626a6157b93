"""Standard adversarial training (SAT): PGD with ten steps, on Fashion-MNIST.

Command:  python main.py --config=configs/pgd_at.py --workdir=runs/pgd_at
          (docs/datasets/fashion_mnist.md says how data/fashion_mnist is made)
Hardware: two CPU cores
Time:     a step takes 5.8 times that of plain training (docs/table4.md)
Expected: docs/table4.md compares it with the others after one epoch
Choices:  eps, steps and step as in Rice et al. (2020) and the paper's SAT; network, optimiser and
          epochs are ours.
"""

import ml_collections

EPS = 8 / 255


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "PGD-AT"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "preact_resnet_narrow"
    config.model.head = "original"
    config.model.pool = "mean"

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 0.0

    config.adversarial = ml_collections.ConfigDict()
    config.adversarial.method = "pgd"
    config.adversarial.eps = EPS
    config.adversarial.step_size = 2 / 255
    config.adversarial.steps = 10

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
