"""Imports the weights of a teacher that was trained in PyTorch.

    python -m experiments.import_torch resnet32x4 ckpt_epoch_240.pth --check=cifar100 \
        --data_dir=DIR
    python -m experiments.run mnist_rdl --teacher_from=weights/resnet32x4 ...

The file is one of RepDistiller (`.pth`, which needs PyTorch), or the same arrays as
`.safetensors` or `.npz`; for `cifar_cnn`, Keras' `.h5`. No code in the file is run.
"""

import sys

from experiments import command, options


def main(arguments: list[str] | None = None) -> int:
    """Imports a teacher; returns the exit status."""

    def run(line):
        settings = command.parse(
            options.ImportTorch,
            line,
            program="experiments.import_torch",
            about=__doc__,
        )
        with command.importing():
            from experiments.weights import importing
        importing.run(settings)

    return command.call(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
