"""The process and the operating system: logs, terminal, pid file, user, process title, child processes, systemd."""
