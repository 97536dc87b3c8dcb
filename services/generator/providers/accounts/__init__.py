"""Provider accounts: their description, their choice for a call, and the pools over them."""
