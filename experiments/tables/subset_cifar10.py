"""Every objective on a subset of CIFAR-10.

Papers: those of the objectives (rdljax/objectives.py), with RepDistiller's weights
(Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020), and the
RDL of McClure & Kriegeskorte 2016.

Command: python -m experiments.table subset_cifar10 --data_dir=DIR

Two teachers of the same small student: `pretrained`, the net of the Python package
cifar-10-model, trained on 40,000 images elsewhere, and `same_data`, a ResNet trained on
the student's images. The first is read from weights/cifar_cnn, which

    python -m experiments.import_torch cifar_cnn cnn_model.h5

writes from the file `cifar_10_model/trained_models/cnn_model.h5` of that package.
Images are neither cropped nor mirrored, so that the teacher's activations are computed
once for each image; they take 1.3 GiB of memory. FSP and KDSVD, which need nets of
equal width, are left out.
"""

from typing import Any

from experiments import config as configs
from experiments import tables

METHODS = (
    *("plain", "kd", "dkd", "dist", "hint", "at", "nst", "vid", "ab", "ft"),
    *("rdl", "sp", "pkt", "rkd", "cc", "cka", "crd", "crd+kd", "kd+rdl"),
)


def get_table() -> tables.Table:
    """Returns a column for each of the two teachers."""
    shared: dict[str, Any] = {
        "data": "cifar10",
        "student": "mnist_cnn_small",
        "methods": METHODS,
        "layers": ("stage1", "stage2", "pooled"),
        "maps": ("stage1", "stage2"),
        "crop": 0,
        "flip": False,
        "remember_teacher": True,
        "epochs": 20,
        "teacher_epochs": 20,
        "start_epochs": 5,
        "weights": tables.KD_ALONE,
    }
    return tables.Table(
        {
            "pretrained": tables.Column(
                configs.make(teacher_from="weights/cifar_cnn", **shared)
            ),
            "same_data": tables.Column(configs.make(teacher="resnet8", **shared)),
        },
        (*tables.SMALL, "a small part of the images, neither cropped nor mirrored"),
    )
