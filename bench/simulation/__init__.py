"""The fair order under a virtual clock: the production rules, beside other orders, in scenarios with a name."""
