"""How long a test waits for what takes seconds: less would measure how busy the machine is, and find no fault."""

LIMIT_S = 300.0
