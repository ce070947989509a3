//! Sessions with the broker: restarts, dead sockets, cancelled consumers, missing queues, rolling restarts.
