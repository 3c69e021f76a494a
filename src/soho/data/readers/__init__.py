"""One reader per upstream format; each yields the records of `soho.data.schema` and knows no tensor."""

from soho.data.readers.reading import LoadNotes, OnMissing

__all__ = ["LoadNotes", "OnMissing"]
