"""Draws the picture at the top of README from a finished run of `make mnist`.

    make mnist
    .venv/bin/python -m docs.pictures.digits results/mnist_few_labels-digits

It has the teacher and the students `plain` and `rdl` of seed 0: the RDMs of test digits
in the layer `pooled`, and a map of four layers of each net.
"""

import pathlib
import sys

import numpy as np
from matplotlib import pyplot as plt

from experiments import data
from experiments.results import plots as results_plots
from experiments.training import context
from rdljax import files, plots, statistics

LAYERS = ("stage1", "stage2", "pooled", "logits")
NETS = {
    "teacher": "teacher\nall 3,500 digits",
    "plain-seed0": "student alone\n20 digits of each class",
    "rdl-seed0": "student taught by RDL\n20 digits of each class",
}


def main(folder: pathlib.Path) -> None:
    """Writes `digits.png` beside this file."""
    test = data.load("digits").test
    labels = test.label[context.stimuli(test)]
    rdms = {
        title: files.npz(folder / net / "rdms.npz", lambda _: LAYERS)
        for net, title in NETS.items()
    }
    figure, panels = plt.subplots(1, 4, figsize=(11.6, 3.4), layout="constrained")
    teacher = rdms[NETS["teacher"]]["pooled"]
    for axes, (title, own) in zip(panels, rdms.items(), strict=False):
        plots.draw_rdm(own["pooled"], axes, labels=labels, colour_bar=False)
        axes.set_title(title, fontsize=10)
        if own["pooled"] is not teacher:
            r = statistics.rdm_agreement(own["pooled"], teacher).pearson
            axes.set_xlabel(f"r = {r:.2f}", fontsize=10)
    stacks = {
        title.partition("\n")[0]: np.stack([own[layer] for layer in LAYERS])
        for title, own in rdms.items()
    }
    axes = plots.draw_rdm_map(stacks, panels[3], layers=LAYERS)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_title("map of their layers:\nsimilar RDMs are close", fontsize=10)
    out = pathlib.Path(__file__).with_suffix(".png")
    results_plots.save(figure, out, dpi=120, palette=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
