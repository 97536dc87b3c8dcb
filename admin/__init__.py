"""What operators do by hand: keys, what stores weigh, dead letters. The image has it, and `./blogstream` calls it.

Beside no service: it runs for as long as a command takes, where its environment names database and broker.
"""
