"""Why the kernel was asked for memory: events, whose they are, and their explanations, from records alone."""
