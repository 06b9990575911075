"""A process that dies under a test costs the run that test, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COUNT = 40

TESTS = """
import os, pathlib
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(number):
    with pathlib.Path("done").open("a") as done:
        done.write(f"{{number}} ")
    if number in {deadly}:
        os._exit(1)

def test_last():
    pass
"""


def test_a_process_dies_and_the_run_goes_on_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS.format(count=COUNT, deadly=(25, COUNT - 1)))
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    options = ("-p", "no:schemathesis", "-p", "no:cacheprovider", "-n", "2", "-q")

    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert f"2 failed, {COUNT - 1} passed" in run.stdout, run.stdout
    ran = (tmp_path / "done").read_text().split()
    assert sorted(map(int, ran)) == list(range(COUNT))
