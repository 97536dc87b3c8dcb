"""Pure decisions: what may be spent, what to write, what to do about a failure. Clock and randomness are arguments."""
