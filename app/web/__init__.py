"""The HTTP application: Quart for the routes, and around it the layers that every request passes."""
