"""What the settings are read with: quantities, and the tables of the TOML file."""
