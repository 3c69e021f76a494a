"""The demonstration: the whole road on the embedded world, and its page."""

from soho.demo.result import DemoResult
from soho.demo.stages import run_demo

__all__ = ["DemoResult", "run_demo"]
