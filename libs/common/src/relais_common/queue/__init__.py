"""The queue, its log and its live bus: the ports, their Redis scripts, and the adapters that call them."""
