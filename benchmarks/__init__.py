"""Measurements: each compares Relais with something else in the same run, and prints ratios."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What they share with bootstrap is nowhere installed.
sys.path.append(str(ROOT / "scripts"))
