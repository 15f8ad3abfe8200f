"""A page about a run, or about a table of runs.

- `numbers`: the numbers of the page
- `page`: the HTML
"""
