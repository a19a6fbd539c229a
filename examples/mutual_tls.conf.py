"""Settings of mutual_tls.py: only peers with a certificate of the authority in ca.pem can connect."""

certfile = "localhost.pem"
ca_certs = "ca.pem"
cert_reqs = "required"
tls_min_version = "1.3"
