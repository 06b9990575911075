"""What clients may send: one type per request, and every bound beside its field."""
