"""A run's life: the gateway takes goals in, the decider sees them through, the supervisor keeps both up."""
