"""What clients send and are sent: one type each, and every bound beside its field."""
