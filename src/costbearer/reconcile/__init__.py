"""What providers bill, and how it compares with what was recorded."""
