"""People's models through whole servers: what they bring, and what they do wrong."""
