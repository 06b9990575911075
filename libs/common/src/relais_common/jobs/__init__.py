"""The types of a request: job, events, channel, errors and trace record. Frozen types, no I/O."""
