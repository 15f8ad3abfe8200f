"""Writes the page of a run, or of a table of runs.

- `numbers`: the numbers of the page
- `measured`: those of nets and measured RDMs
- `encoding`: arrays as texts for the script of the page
- `charts`: the geometry of charts
- `page`: the HTML
"""
