"""What is made of finished runs.

- `linear_probe`: frozen features on other images
- `logit_correlations`: correlations between logits
- `grid`: students by every setting of a grid
- `report`: a page of a run or a table
- `detection`: nets as backbones of detectors
"""
