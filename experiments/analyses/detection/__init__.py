"""Compares nets as backbones of detectors, after Huang & Wang 2017.

- `canvas`: images of several objects
- `centernet`: the detector, its losses and its precision
- `backbones`: trained nets and one of their layers
- `options`: the settings of a comparison
- `comparison`: training of a detector on every backbone
- `folder`: the folder of a comparison
- `summary`: numbers, table and figure
"""
