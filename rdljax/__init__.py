"""Transfers representations between networks, and from brains to networks.

============= ==========================================================================
module        contents
============= ==========================================================================
`objectives`  every loss, a pure function of activations to a scalar
`rdm`         representational distance matrices: distances, comparisons, measured RDMs
`mmd`         maximum mean discrepancy: kernels, estimates, a permutation test
`terms`       losses with what they train or remember
`teachers`    the sources of targets
`activations` activations in files
`training`    states, steps, devices, phases, vectorised trainings
`checkpoints` verified checkpoints
`statistics`  McNemar, Holm, paired differences, bootstrap, noise ceiling
`inference`   models compared with measured RDMs: bootstrap, tests, fitted models
`plots`       pictures of RDMs, of stimuli in a plane, and of models
`nets`        nets, and activations of any Flax model
`files`       arrays and JSON in files
`validate`    checks of values
`errors`      the errors that a program may catch
============= ==========================================================================

Nothing is imported here, so that ``from rdljax import objectives`` only needs jax.
"""

__version__ = "0.1.0"
