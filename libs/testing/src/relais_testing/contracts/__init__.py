"""What every implementation of a worker's port does: test classes that an implementation's own tests subclass."""
