"""Statistics: rank tests, power, change points and regression. Pure."""
