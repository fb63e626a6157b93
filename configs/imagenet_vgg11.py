"""ImageNet with Top-GAP: VGG11 with BatchNorm, pyramid head, k=256 of the 56x56 positions of the CAM.

Command:  python main.py --config=configs/imagenet_vgg11.py --workdir=runs/imagenet_vgg11
          (on every host, with the same workdir on storage that all of them see; docs/imagenet.md)
Data:     `topgap data prepare imagenet` (docs/datasets/imagenet.md): 1,281,167 + 50,000 pictures
Hardware: a TPU v5e slice of 4x4, or GPUs; the batch of 2048 is 128 pictures on each of 16 chips
Time:     never run; ESTIMATE in docs/tpu.md
Expected: 0.699 top-1, the paper's figure (table 3, one run); 0.704 without Top-GAP. Not reproduced here.
Choices:  ours: the recipe of `imagenet_k256.py` with half its learning rate, for a network without shortcuts.
          The pyramid replaces the three large linear layers: 12.4 million parameters, not 132.9.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "Top-GAP"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "vgg11_bn"
    config.model.head = "pyramid"
    config.model.pool = "topk"
    config.model.k = 256
    config.model.dtype = "bfloat16"
    config.model.remat = False

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 1.0
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
    config.optimizer.learning_rate = 0.4
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
