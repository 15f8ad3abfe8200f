"""A page about a run, or about a table of runs.

- `numbers`: what is shown
- `page`: the HTML
"""
