"""Manages the folder of a run and summarises the results in it.

- `folder`: which run a folder belongs to, and which files may be deleted
- `aggregate`: means over seeds, differences, tests
- `markdown`: results as Markdown
- `verdict`: the result of a run in one sentence
- `plots`: results as figures
- `columns`: the settings of a table's column, and changes of them
- `table`: the result of a table of runs
"""
