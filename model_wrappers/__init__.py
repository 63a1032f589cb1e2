"""The lmms-eval model `backbone_vlm` and the evaluation command; found by lmms-eval through an entry point.

From outside: `manifest.register` (the entry point) and `evaluate` (the command). Importing this package loads nothing.
"""
