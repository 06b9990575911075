"""The parts of `benchmarks.soak`: processes, faults, clients, audit."""
