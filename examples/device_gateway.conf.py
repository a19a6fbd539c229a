"""Settings of device_gateway.py: two addresses that are served by the same worker."""

listeners = {
    "127.0.0.1:3032": {"app": "device_gateway:app", "read_idle_timeout": 90},
    "127.0.0.1:3033": {"app": "device_gateway:admin"},
}
