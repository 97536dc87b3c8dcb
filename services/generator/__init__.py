"""generator: turns a job into a post. Claims it, pays for its steps within the limits, saves every answer."""
