"""Analyses finished runs, and nets outside of runs.

- `runs`: finished runs: their settings and their nets
- `linear_probe`: frozen features on other images
- `frozen_features`, `logistic_regression`: the parts of probes and correlations
- `logit_correlations`: correlations between logits
- `grid`: students with every setting of a grid
- `report`: a page of a run or a table
- `detection`: nets as backbones of detectors
"""
