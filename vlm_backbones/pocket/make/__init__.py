"""The maker of the pocket parts: `python -m vlm_backbones.pocket.make`. Users never need it."""
