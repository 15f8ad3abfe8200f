"""Defines objectives: functions of student's and teacher's activations to a scalar.

================= ========================================= ===========================
objective         compares                                  paper
================= ========================================= ===========================
`kd`              softened class probabilities              Hinton et al. 2015
`dkd`             target class and others separately        Zhao et al. 2022
`dist`            correlations within and between classes   Huang et al. 2022
`hint`            activations, unit by unit                 Romero et al. 2015
`at`              attention maps                            Zagoruyko & Komodakis 2017
`nst`             distributions of channels' maps           Huang & Wang 2017
`vid`             activations, under a Gaussian             Ahn et al. 2019
`ab`              which units are active                    Heo et al. 2019
`ft`              factors of translator and paraphraser     Kim et al. 2018
`ft_repdistiller` attention maps of factors                 Tian et al. 2020
`fsp`             products of successive layers             Yim et al. 2017
`kdsvd`           main directions of successive layers      Lee et al. 2018
`rdl`             representational distance matrices        McClure & Kriegeskorte 2016
`rdl_target`      student's RDM with a measured RDM         McClure & Kriegeskorte 2016
`rdl_subjects`    student's RDM with those of subjects      McClure & Kriegeskorte 2016
`sp`              similarities of each example to all       Tung & Mori 2019
`pkt`             neighbour probabilities of examples       Passalis & Tefas 2018
`rkd_distance`    distances relative to their mean          Park et al. 2019
`rkd_angle`       angles of three examples                  Park et al. 2019
`cc`              correlations under a Gaussian kernel      Peng et al. 2019
`cc_repdistiller` errors of successive examples             Tian et al. 2020
`cka`             centred Gram matrices                     Kornblith et al. 2019
`crd`             each example with K others, in a bank     Tian et al. 2020
`crd_shared`      the same, one set of others per batch     Tian et al. 2020
================= ========================================= ===========================

Conventions:

- Positional arguments are data; keyword-only arguments are hyperparameters and
  functions.
- Student and teacher are arrays `[batch, ...]` or, unless stated otherwise, pytrees of
  such arrays with the same structure; the value is then the sum over the layers. `kd`,
  `dkd`, `dist`, `crd` and `crd_shared` take arrays only. `ab`, `fsp` and `kdsvd` take
  sequences of layers in depth order, which they weight or relate.
- Maps are `[batch, height, width, channels]` (NHWC). Maps of PyTorch or Equinox, with
  the channels first, have to be transposed before (`x.transpose(0, 2, 3, 1)`). Maps of
  different size are pooled to the same size if they have the same aspect, and refused
  otherwise.
- Every objective is computed in at least float32, is differentiable in the student, and
  holds the teacher fixed (except `cc_repdistiller`, `crd` and `crd_shared`, which train
  the teacher's side too).
- A wrong call raises a `ValueError` with the names of the objective and the layer and
  with both shapes.
- All objectives work under `jit`, `grad`, `vmap`, `pmap`, `shard_map`, `scan` and
  `checkpoint`, and need only jax.
- `Bank` is the memory bank of `crd`, with its functions `crd_normalizers` and
  `crd_update_bank`. For a bank divided over devices, `crd_exponentials_of_rows` and
  `crd_of_rows` compute the contributions of its parts, which are summed, and
  `crd_update_rows` updates each part.
"""

from rdljax._objectives.contrast import (
    Bank,
    crd,
    crd_exponentials_of_rows,
    crd_normalizers,
    crd_of_rows,
    crd_shared,
    crd_update_bank,
    crd_update_rows,
)
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
from rdljax._objectives.rdms import rdl, rdl_subjects, rdl_target
from rdljax._objectives.relations import (
    cc,
    cc_repdistiller,
    cka,
    pkt,
    rkd_angle,
    rkd_distance,
    sp,
)

__all__ = [
    "Bank",
    "ab",
    "at",
    "cc",
    "cc_repdistiller",
    "cka",
    "crd",
    "crd_exponentials_of_rows",
    "crd_normalizers",
    "crd_of_rows",
    "crd_shared",
    "crd_update_bank",
    "crd_update_rows",
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
