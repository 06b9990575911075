"""What every worker does, whatever it runs: take, hold, publish, end, hand back."""
