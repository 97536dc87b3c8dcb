"""One file a vendor: its calls, its exceptions in our three words, nothing of it elsewhere."""
