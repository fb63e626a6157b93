"""FLC pooling (Grabinski et al., 2022) on Fashion-MNIST: a narrow PreAct-ResNet and its strided twin.

Command:  python main.py --config=configs/flc_pooling.py --workdir=runs/flc_pooling
          (docs/datasets/fashion_mnist.md says how data/fashion_mnist is made)
Hardware: two CPU cores
Time:     docs/table4.md has what a step costs
Expected: docs/table4.md compares it with the others after one epoch
Choices:  ours. The authors combine this pooling with FGSM adversarial training; here it stands alone, and
          `--config.adversarial.method=fgsm` adds the training.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "FLC pooling"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "preact_resnet_narrow"
    config.model.head = "original"
    config.model.pool = "mean"
    config.model.downsampling = "flc"
    config.model.dtype = "float32"

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 0.0

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
    config.evaluation.attacks = ("paper_fgsm", "paper_pgd20", "pgd50", "auto_attack")
    config.evaluation.attack_eps = 8 / 255
    config.evaluation.attack_examples = 512

    # The twin: the same network with strided convolutions, trained in the same way.
    config.twin = ml_collections.ConfigDict()
    config.twin.title = "Strided"
    config.twin.model = {"downsampling": "strided"}
    return config
