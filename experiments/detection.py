"""Compares trained nets as backbones of an object detector.

    python -m experiments.run mnist_rdl --student=resnet8 --methods plain nst \
        --out=results/students
    python -m experiments.detection random=random:resnet8 \
        plain=results/students/plain-seed{seed}/weights \
        nst=results/students/nst-seed{seed}/weights

Paper: Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity
Transfer, arXiv 1707.01219, 2017. A student that has learned from a teacher becomes the
backbone of a detector, and so do other nets; better features make a better detector.

NAME=FOLDER gives a name to the weights of a net, written by a run or by
`experiments.import_torch`; `{seed}` in FOLDER becomes 0, 1, ... NAME=random:NET is a
net with random initial weights; the first net is the baseline. All nets have the same
head and the same canvases; seeds differ in the head, the order of the canvases, random
weights, and the folder if it has `{seed}`.

Differences from the paper:
1. The data. The paper detects objects in photographs, PASCAL VOC 2007. Here real
   images of a classification set are composed on canvases: digits and other images of
   one channel by the maximum over black, with boxes around their ink; colour images as
   rectangles over noise with the data's mean and deviation. That is easier: there is
   no clutter, no perspective, and hardly any occlusion. The results say nothing about
   the ranking of nets on photographs.
2. The detector. Not Faster R-CNN but one head without anchors: a heatmap of centres for
   each class, and size and offset of the box (Zhou, Wang & Krähenbühl, Objects as
   Points, arXiv 1904.07850, 2019).
3. The backbone. Not Inception-BN trained on ImageNet but the nets of `rdljax.nets`,
   trained on images of one object. The images of test canvases are test images of the
   data: nets of `experiments.run` with the same data have seen none of them.

The metrics are the mean over classes of average precision at an IoU of 0.5, computed as
in VOC 2010 (all points), and its mean over IoUs of 0.5, 0.55, ..., 0.95.

Cost: with `--epochs=4 --canvases=1000`, two backbones and three seeds, five minutes on
two busy CPU cores; two and a half with `--frozen`.

Results with these settings, resnet8 and students trained for five epochs (4.1 % test
error), mean and standard deviation over seeds: mAP 78.6 ± 1.9 % from random weights and
86.2 ± 0.7 % from plain students, paired difference 7.6 [1.1, 14.2]; with `--frozen`
37.1 ± 2.3 and 78.3 ± 0.8 %, difference 41.2 [33.8, 48.7]. The learning rate, its
warm-up and the clipping were chosen on canvases of validation images.
"""

import sys

from experiments import command
from experiments.analyses.detection import options as detection_options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns an exit status as `experiments.run` does."""
    return command.call(_run, arguments)


def _run(arguments: list[str]) -> int:
    options = command.parse(
        detection_options.Options,
        arguments,
        program="experiments.detection",
        about=__doc__,
    )
    again = [argument for argument in arguments if argument != "--resume"]
    with command.importing():
        from experiments.analyses.detection import comparison
        from experiments.training import exits

    def train(interrupt):
        comparison.compare(options, interrupt)

    return exits.run(train, "experiments.detection", [*again, "--resume"])


if __name__ == "__main__":
    sys.exit(main())
