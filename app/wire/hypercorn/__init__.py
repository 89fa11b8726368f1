"""The adapter to Hypercorn, and the only package that knows its internals (0.18).

Hypercorn keeps configuration, sockets, worker processes, reload, lifespan, TLS set-up, HTTP/2 and WebSocket. What is
put in its place here is looked up by `hypercorn.trio.run` when it serves, after it has imported the application:

- `worker_serve`, around which the drain runs (`serving`);
- `TCPServer`: cleartext or TLS, it serves HTTP/1.1 by `app.wire.connection` (`client_connection`). What speaks HTTP/2
  (`http2`), or wants a WebSocket (`websocket`), goes to Hypercorn's protocols, whose reads are bounded
  (`applications`), whose writes can be cancelled and have a stall limit, which see from the socket that the peer has
  left, and whose errors end one connection only.
"""

from app.wire.hypercorn.installation import hypercorn_values, install, serve

__all__ = ["hypercorn_values", "install", "serve"]
