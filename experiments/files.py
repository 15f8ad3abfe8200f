"""Files that are written whole or not at all, and never through a link.

    files.write(folder / "table.md", text)
    with files.draft(folder / "rdms.npz") as file:
        np.savez(file, **rdms)
    with files.draft(folder / "figure.png") as file:
        figure.savefig(file.name)

`is_draft` tells what a process that was killed may leave in a folder; a `draft` of the
same file removes it, a minute later or more. `npz` reads the arrays and `words` the
JSON of a file that may be anyone's.
"""

from rdljax import _files

write, draft, is_draft = _files.write, _files.draft, _files.is_draft
npz, words = _files.npz, _files.words
