"""The demo: stores of unequal size submit requests at once; it shows each one's waits and costs."""
