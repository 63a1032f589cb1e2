"""One offline page from the tables and samples; imported by `vlm_backbones.analysis.pipeline` alone."""
