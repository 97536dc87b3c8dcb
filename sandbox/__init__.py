"""All that stands in for the world on one machine: Kafka, PostgreSQL, the AI providers, and who starts them."""
