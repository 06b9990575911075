"""What keys took."""
