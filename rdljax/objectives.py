"""Objectives: pure functions from activations of a student and a teacher to a scalar.

================= ========================================= ===========================
objective         what is compared                          paper
================= ========================================= ===========================
`kd`              softened class probabilities              Hinton et al. 2015
`dkd`             the right class and the others apart      Zhao et al. 2022
`dist`            correlations within and between classes   Huang et al. 2022
`hint`            activations, unit by unit                 Romero et al. 2015
`at`              where the energy of a map lies            Zagoruyko & Komodakis 2017
`nst`             distributions of channels' maps           Huang & Wang 2017
`vid`             activations, under a Gaussian             Ahn et al. 2019
`ab`              which units are active                    Heo et al. 2019
`ft`              factors of two translators                Kim et al. 2018
`ft_repdistiller` where the energy of two factors lies      Tian et al. 2020
`fsp`             products of successive layers             Yim et al. 2017
`kdsvd`           main directions of successive layers      Lee et al. 2018
`rdl`             representational distance matrices        McClure & Kriegeskorte 2016
`rdl_target`      a student's RDM with a measured one       McClure & Kriegeskorte 2016
`rdl_subjects`    the same, with that of each subject       McClure & Kriegeskorte 2016
`sp`              similarities of each example to all       Tung & Mori 2019
`pkt`             probabilities of the others as neighbours Passalis & Tefas 2018
`rkd_distance`    distances relative to their mean          Park et al. 2019
`rkd_angle`       angles of three examples                  Park et al. 2019
`cc`              correlations under a Gaussian kernel      Peng et al. 2019
`cc_repdistiller` errors of successive examples             Tian et al. 2020
`cka`             centred Gram matrices                     Kornblith et al. 2019
`crd`             each example with K others, in a bank     Tian et al. 2020
`crd_shared`      the same, the batch sharing the others    Tian et al. 2020
================= ========================================= ===========================

Conventions. Positional arguments are data, keyword-only arguments are chosen numbers
and functions. Student and teacher are arrays `[batch, ...]` or, unless said otherwise,
pytrees of such arrays with the same structure; the value is then the sum over the
layers. Maps are `[batch, height, width, channels]` (NHWC): those of PyTorch or Equinox,
whose channels come first, are to be transposed before (`x.transpose(0, 2, 3, 1)`). Maps
of two sizes are pooled to one where they have one aspect, and refused otherwise. `kd`,
`dkd`, `dist`, `crd` and `crd_shared` take arrays only. Sequences of
layers in depth order, which they weight or relate, are what `ab`, `fsp` and `kdsvd`
take. Every objective is computed in at least float32, is differentiable in the student,
and holds the teacher fixed (but for `cc_repdistiller`, `crd` and `crd_shared`, which
train that side too). A wrong call raises `ValueError` with the names of objective and
layer and both shapes. All work under `jit`, `grad`, `vmap`, `pmap`, `shard_map`, `scan`
and `checkpoint`, and need jax alone. What `crd` remembers is a `Bank`, with its
functions `crd_normalizers` and `crd_update_bank`; where a bank is divided over devices,
its parts are summed with `crd_exponentials_of_rows` and `crd_of_rows`, and each is
updated by `crd_update_rows`.
"""

from rdljax._objectives.contrast import Bank as Bank
from rdljax._objectives.contrast import crd, crd_shared
from rdljax._objectives.contrast import (
    crd_exponentials_of_rows as crd_exponentials_of_rows,
)
from rdljax._objectives.contrast import crd_normalizers as crd_normalizers
from rdljax._objectives.contrast import crd_of_rows as crd_of_rows
from rdljax._objectives.contrast import crd_update_bank as crd_update_bank
from rdljax._objectives.contrast import crd_update_rows as crd_update_rows
from rdljax._objectives.features import (
    ab,
    at,
    fsp,
    ft,
    ft_repdistiller,
    hint,
    kdsvd,
    nst,
    vid,
)
from rdljax._objectives.logits import dist, dkd, kd
from rdljax._objectives.relations import (
    cc,
    cc_repdistiller,
    cka,
    pkt,
    rdl,
    rdl_subjects,
    rdl_target,
    rkd_angle,
    rkd_distance,
    sp,
)

__all__ = [
    "ab",
    "at",
    "cc",
    "cc_repdistiller",
    "cka",
    "crd",
    "crd_shared",
    "dist",
    "dkd",
    "fsp",
    "ft",
    "ft_repdistiller",
    "hint",
    "kd",
    "kdsvd",
    "nst",
    "pkt",
    "rdl",
    "rdl_subjects",
    "rdl_target",
    "rkd_angle",
    "rkd_distance",
    "sp",
    "vid",
]
