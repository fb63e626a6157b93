"""A folder of microscope pictures: a small Top-GAP network on tiles of one channel.

    tissue/train/<class>/*.tif   tissue/validation/<class>/*.tif   tissue/test/<class>/*.tif

Command:  python main.py --config=configs/microscopy.py --workdir=runs/tissue [--config.data.source=...]
          (docs/microscopy.md makes such a folder, and says what to set for yours)
Hardware: two CPU cores
Time:     under a minute (docs/microscopy.md)
Expected: docs/microscopy.md has the accuracy and where the network looked
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "Top-GAP"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "resnet_narrow"  # with a GPU and pictures of 224 pixels: resnet18
    config.model.k = 102  # as `topgap data inspect` suggests

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 1.0
    config.loss.class_weights = ()

    config.data = ml_collections.ConfigDict()
    config.data.source = "folder:tissue"
    config.data.options = {
        "size": 64,
        "channels": 1,  # stored channels
        "window": ("percentile", 0.1, 99.9),  # or stored values, (0, 4095): then brightness counts
    }
    config.data.test = ("test",)
    config.data.folds = 0  # 5: five-fold cross-validation of the split `train`
    config.data.fold = -1
    config.data.fold_seed = 0
    config.data.fold_validation = 10
    config.data.fold_groups = False  # True: pictures of one group stay together
    config.data.augment = ("dihedral",)  # quarter turns and mirror images: nothing is upright here

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 0.005
    config.optimizer.weight_decay = 0.05

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 32
    config.train.epochs = 12
    config.train.log_every_steps = 20

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.weights = "best"
    config.evaluation.attacks = ("paper_fgsm", "pgd50")
    config.evaluation.attack_eps = 1 / 255
    return config
