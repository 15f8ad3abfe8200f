"""Trains linear probes on the features of a run's nets, on other images.

    python -m experiments.probe results/mnist_rdl-cifar100 --data=stl10 --data_dir=DIR

Paper: Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020
(arXiv 1910.10699), table 4: a linear classifier on the frozen features of CIFAR-100
students, for STL-10 and TinyImageNet. Its training was not published (issue 44 of
RepDistiller asks for it), so this classifier needs no recipe: multinomial logistic
regression on standardised features, solved to convergence, with the L2 weight chosen on
the validation images. Where the data are the paper's, its numbers are printed, too.

Cost: for a net of 64 features, 9,000 images and 10 classes about 10 s on two CPU cores,
for one of 500 features a minute; nearly all of it for the classifiers.

Results, with nets trained on 5,000 images of Fashion-MNIST (5 epochs, 3 seeds), on
MNIST: error 5.0 % (teacher), 18.0 % (plain), 15.8 % (rdl), 15.2 % (kd), 19.1 % (crd);
rdl and kd better than plain in all seeds (McNemar).
"""

import sys

from experiments import command, options


def main(arguments: list[str] | None = None) -> int:
    """Probes the nets of a run; returns the exit status."""

    def run(line):
        settings = command.parse(
            options.Probe, line, program="experiments.probe", about=__doc__
        )
        with command.importing():
            from experiments.analyses import linear_probe
        linear_probe.run(settings)

    return command.call(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
