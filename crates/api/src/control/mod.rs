//! Messages of the control socket of an agent: what the command line asks on a registered server.
