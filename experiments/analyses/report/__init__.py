"""Writes the page of a run, or of a table of runs.

- `numbers`: the numbers of the page
- `page`: the HTML
"""
