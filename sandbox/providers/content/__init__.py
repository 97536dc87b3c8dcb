"""What the stand-ins produce: texts from seeded phrases, pictures from seeded colours."""
