"""The demonstration: the whole road on the embedded world, and its page."""

from soho.demo.stages import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
