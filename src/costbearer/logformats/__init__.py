"""Foreign usage logs: one file each says how a format is recognised, how its columns map, what its counts contain."""
