"""The embedded world: draws scenes and writes them in the upstream file formats, so the demo walks the real road."""

from soho.data.miniature.scene import Scene, Thing
from soho.data.miniature.world import MiniatureSummary, World, generate, load_world

__all__ = ["MiniatureSummary", "Scene", "Thing", "World", "generate", "load_world"]
