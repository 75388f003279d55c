//! A server that answers as Fly does; its machines are child processes.
