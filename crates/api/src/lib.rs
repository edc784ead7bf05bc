//! The contract: gRPC for agents, REST for people, the control socket, and their clients.
