//! gRPC between agents and the service: the generated messages, their conversion to `polder_types`, connections.
