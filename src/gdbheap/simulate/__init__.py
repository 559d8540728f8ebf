"""The allocator as a pure state machine: what an operation does, step by step, as a function of (state, request)."""
