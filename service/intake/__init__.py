"""How a visit comes in: message, use case, Kafka."""
