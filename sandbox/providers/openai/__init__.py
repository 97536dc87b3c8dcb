"""A stand-in for OpenAI: Responses API, Chat Completions, and both at Azure's addresses."""
