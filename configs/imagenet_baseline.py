"""ImageNet without Top-GAP: the unmodified ResNet-18 with plain GAP, beside `imagenet_k256.py`.

Command:  python main.py --config=configs/imagenet_baseline.py --workdir=runs/imagenet_baseline
          (on every host, with the same workdir on storage that all of them see; docs/imagenet.md)
Data:     `topgap data prepare imagenet` (docs/datasets/imagenet.md): 1,281,167 + 50,000 pictures
Hardware: a TPU v5e slice of 4x4, or GPUs; the batch of 2048 is 128 pictures on each of 16 chips
Time:     never run; ESTIMATE in docs/tpu.md
Expected: 0.698 top-1, the paper's figure (table 3; weights of PyTorch Image Models). Not reproduced here.
Choices:  all but model and l1 as in `imagenet_k256.py`, so that the two differ in the method alone. For plain
          GAP with the pyramid: --config.model.head=pyramid.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "Plain GAP"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "resnet18"
    config.model.head = "original"
    config.model.pool = "mean"
    config.model.dtype = "bfloat16"
    config.model.remat = False

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 0.0
    config.loss.label_smoothing = 0.0

    config.data = ml_collections.ConfigDict()
    config.data.source = "imagenet"
    config.data.options = {}  # {"short_side": 512} decodes large pictures faster
    config.data.train = "train"
    config.data.validation = "validation"
    config.data.test = ("validation",)
    config.data.augment = ("random_resized_crop:224", "horizontal_flip")
    config.data.eval_transforms = ("resize_short:256", "center_crop:224")
    config.data.workers = 16  # processes on each host; a TPU v5e host of four chips has 112 virtual cores

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.8
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_fraction = 5 / 90
    config.optimizer.weight_decay = 5e-5

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 2048
    config.train.epochs = 90
    config.train.checkpoint_every_steps = 500

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.batch_size = 2048
    config.evaluation.attacks = ("paper_fgsm", "paper_pgd40")  # as in table 3
    config.evaluation.attack_eps = 1 / 255
    return config
