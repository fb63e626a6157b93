"""l1 of all maps of the backbone, the ablation of the paper's appendix F, on Fashion-MNIST.

Command:  python main.py --config=configs/l1_all.py --workdir=runs/l1_all
          (docs/datasets/fashion_mnist.md says how data/fashion_mnist is made)
Hardware: two CPU cores
Time:     that of plain training: about half of configs/fashion_mnist.py with its twin
Expected: not measured yet
Choices:  lambda as in tables A7 to A9 (1e-5, also 1e-3), a sum over the outputs of all stages; the
          network is ours.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "l1 of all maps"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "preact_resnet_narrow"
    config.model.head = "original"
    config.model.pool = "mean"

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 1e-5  # and 1e-3 in the paper
    config.loss.l1_of = "all"

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
