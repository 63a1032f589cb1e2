"""`python -m vlm_backbones.cli`: the commands without the installed script."""

from __future__ import annotations

from vlm_backbones.cli import main

if __name__ == "__main__":
    main()
