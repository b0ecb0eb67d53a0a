"""The log over NATS JetStream, its in-memory twin, and the embedded broker."""
