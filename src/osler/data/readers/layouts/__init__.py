"""Rows as other people write them, brought to one form: one module for each part of a row.

`tables` finds the rows of a file or folder, `conversation` takes chats apart, `fields` names what a row holds, and `options`, `answers`,
`pictures` and `places` read its parts. `docs/datasets.md` lists what is read. What stays ambiguous is refused by name.
"""
