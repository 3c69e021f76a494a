"""WebDataset shards: tar files of pictures and records, with an index that gives every picture by its bytes.

`layout` says what lies where, `records` how an example becomes JSON and back, `writing` makes shards from a recipe's
sources, `opening` finds them in a folder or behind an address; `soho.data.readers.shards` reads them as a source.
"""
