"""Training: `python -m vlm_backbones.train.finetune` turns a study's recipe into a run; import from the modules."""
