"""TcpServer: accepts connections, applies the limits, and hands connections to the engine."""
