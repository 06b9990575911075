"""Parts of `benchmarks.capacity`: real fleets under load, what each step costs, the model, and the plan made of it."""
