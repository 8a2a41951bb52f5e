"""Trained networks as files that other programs run: StableHLO and ONNX.

Read ``export_run`` first.
"""
