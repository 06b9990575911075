"""Reading a channel: its log, its live messages, and the presence of its watchers."""
