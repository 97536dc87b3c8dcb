"""The scheduler: admits requests and dispatches jobs in fair order to workers with credit."""
