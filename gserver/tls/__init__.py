"""TLS of the server: certificates, contexts, handshake, encrypted connections."""
