"""Trained models in forms that run without torch: one graph, its settings, and the proof that both agree."""

from soho.export.folder import export_onnx

__all__ = ["export_onnx"]
