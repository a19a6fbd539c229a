"""The engine: receives, decodes, calls handlers and sends replies; schedules greenlets over connections."""
