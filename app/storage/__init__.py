"""Where rows and bytes are kept: one database contract over MySQL and SQLite, and the reports folder."""
