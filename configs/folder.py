r"""Your own pictures: a Top-GAP ResNet-18 on a folder with one subfolder per class.

    my_pictures/train/<class>/*.png   my_pictures/validation/<class>/*.png   my_pictures/test/<class>/*.png

Command:  python main.py --config=configs/folder.py --workdir=runs/mine \
              --config.data.source=folder:my_pictures [--config.model.pretrained=hf:timm/resnet18.a1_in1k]
Hardware: any; with 224 px pictures a GPU is advisable.
k:        how many of the 56x56 positions the object covers, about 3136 * (object area / picture area).
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "Top-GAP"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "resnet18"
    config.model.head = "pyramid"
    config.model.pool = "topk"
    config.model.k = 256
    config.model.dtype = "float32"
    config.model.pretrained = ""  # a file of weights, hf:OWNER/NAME or package:NAME
    config.model.frozen_batch_norm = False

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 1.0
    config.loss.label_smoothing = 0.0
    config.loss.class_weights = ()

    config.data = ml_collections.ConfigDict()
    config.data.source = "folder:my_pictures"
    config.data.options = {"size": 224, "channels": 3}  # channels=1: grey, as from a microscope
    config.data.train = "train"
    config.data.validation = "validation"
    config.data.test = ("test",)
    config.data.folds = 0  # 5: five-fold cross-validation of the split `train`
    config.data.fold = -1  # all of them; or the one to train here
    config.data.fold_seed = 0
    config.data.fold_validation = 10
    config.data.fold_groups = False
    config.data.augment = ("pad_crop:16", "horizontal_flip")
    config.data.mixup = 0.0  # 0.2: pairs of pictures are blended
    config.data.cutmix = 0.0  # 1.0: a box of one picture comes from another
    config.data.eval_transforms = ()  # ("resize_short:256", "center_crop:224") for pictures of many sizes
    config.data.workers = 0

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.05
    config.optimizer.schedule = "one_cycle"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.clip_norm = 1.0
    config.optimizer.freeze = ()  # ("backbone",) trains the pyramid alone
    config.optimizer.layer_decay = 1.0  # with pretrained weights 0.8 to 0.95 keeps more of them
    config.optimizer.ema_decay = 0.0

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 32
    config.train.epochs = 30
    config.train.log_every_steps = 20
    config.train.checkpoint_every_steps = 200

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.batch_size = 32
    config.evaluation.weights = "best"
    config.evaluation.attacks = ("paper_fgsm", "paper_pgd40", "pgd50")
    config.evaluation.attack_eps = 1 / 255
    config.evaluation.attack_examples = 256
    return config
