"""A teacher with all MNIST digits, students with 20 of each class.

Paper: McClure & Kriegeskorte, Representational Distance Learning for Deep Neural
Networks, Front. Comput. Neurosci. 10:131, 2016. The nets are those of `mnist_rdl`. The
teacher has seen 3,500 labelled images; the students see 200, and what the teacher
knows of the others is in its representations.

Command: python -m experiments.run mnist_few_labels

Cost: two to three minutes on two CPU cores.

Results, on 1,000 test digits with five seeds: error 12.4 % (plain), 7.5 % (rdl), 8.2 %
(kd), 6.8 % (kd+rdl), all three significantly lower than plain; agreement of the RDMs
with the teacher's 0.75, 0.92, 0.85, 0.92. The sizes were chosen among four on
validation images; with all digits no method helps (`mnist_rdl`). More is in the
documentation: "MNIST digits".
"""

from experiments import config as configs


def get_config() -> configs.Config:
    """Returns the settings."""
    return configs.make(
        student_per_class=20,
        epochs=100,
        batch=40,
        seeds=5,
    )
