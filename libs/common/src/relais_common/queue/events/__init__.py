"""Reading a channel: its log, its live messages, and who is there to read."""
