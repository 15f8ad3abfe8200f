"""Representational distance learning on MNIST digits.

Paper: McClure & Kriegeskorte, Representational Distance Learning for Deep Neural
Networks, Front. Comput. Neurosci. 10:131, 2016; nets of the first author's prototype.

Command: python -m experiments.run mnist_rdl
"""

from experiments import config


def get_config() -> config.Config:
    return config.Config()
