"""The parts of `benchmarks.attack`: a stack, victims, attacks, and what they cost."""
