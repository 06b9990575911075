"""The loops that all workers share: take, hold, publish, end, hand back."""
