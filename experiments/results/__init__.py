"""The folder of a run and what is written to it.

- `folder`: whose it is, and what may be deleted
- `aggregate`: means over seeds, differences, tests
- `markdown`: the result in words
- `plots`: the result in pictures
- `columns`: what a table's column is, and what was changed
- `table`: the result of a table of runs
"""
