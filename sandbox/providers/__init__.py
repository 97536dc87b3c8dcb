"""Stand-ins for the AI providers: they speak the real wire protocols and enforce real limits, and no model runs."""
