"""Search over one's own pictures: an index of vectors and stored tokens, and two stages that read it."""

from soho.search.picture_index import Found, PictureIndex, picture_of
from soho.search.updating import UpdateReport

__all__ = ["Found", "PictureIndex", "UpdateReport", "picture_of"]
