"""What operators declare in files and variables that several services read: keys, aliases, models elsewhere."""
