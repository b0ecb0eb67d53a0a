"""The hands: tool hosts, the only parts that act."""
