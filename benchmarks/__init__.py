"""Measurements: each compares Relais with something else in the same run, and prints ratios."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What they share with the tests and with bootstrap is nowhere installed.
sys.path += [str(ROOT / "tests"), str(ROOT / "scripts")]
