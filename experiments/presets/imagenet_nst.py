"""Neuron selectivity transfer on ImageNet.

Paper: Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity
Transfer, arXiv 1707.01219, 2017, section 5.2, whose student is an Inception-BN (error
25.74 % plain, 24.81 % NST, 24.34 % NST with KD) and whose teacher is ResNet-101.

Command: python -m experiments.run imagenet_nst --data_dir=DIR

DIR holds imagenet2012 as TFDS prepares it (file_format="array_record"); images are
decoded when they are needed. The teacher is read from weights/resnet50_imagenet, which
`python -m experiments.import_torch resnet50_imagenet FILE` writes from torchvision's
weights; without them: --teacher=resnet50_imagenet --teacher_from=None.

Differences from the paper: the learning rate falls after 5/8, 6/8 and 7/8 of the epochs
(in the paper after 30, 60 and 90 of 100), and images are only cropped and mirrored.

Cost: not run here. With --profile a run first measures the time of a step.

Expected: as above, from other nets. Results: none yet; the config is tested on a
generated data set.
"""

from experiments import config as configs


def get_config() -> configs.Config:
    """Returns the settings."""
    return configs.make(
        data="imagenet2012",
        stream=True,
        resize=224,
        flip=True,
        teacher="resnet50_imagenet",
        teacher_from="weights/resnet50_imagenet",
        student="resnet18_imagenet",
        methods=("plain", "nst", "kd", "kd+nst"),
        # Only the last maps, as in the authors' code, with its weights: 50, and 16 for
        # KD at temperature 4. 16 is the squared temperature, which `kd` includes here.
        maps=("stage4",),
        layers=("stage4", "pooled"),
        seeds=1,
        epochs=100,
        batch=512,
        learning_rate=0.1,
        schedule="steps",
        weight_decay=1e-4,
        clip=None,
        dtype="bfloat16",
    )
