"""Stand-ins for the AI providers: real wire protocols and enforced rate limits, but no model."""
