"""Code that all services share: the job's life, messages, topics, clients, HTTP and logging."""
