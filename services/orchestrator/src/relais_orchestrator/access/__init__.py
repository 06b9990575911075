"""Who asks, and what they may: keys, signed addresses, whose channel is whose, limits."""
