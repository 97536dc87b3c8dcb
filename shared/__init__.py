"""What every service shares: a job's life, the messages, the topics, and the thin clients around them."""
