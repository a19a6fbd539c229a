"""TLS of the server: certificates, contexts, the handshake and the encrypted connection."""
