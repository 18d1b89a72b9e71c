"""What a round takes, beside common practice and beside what the machine could do."""
