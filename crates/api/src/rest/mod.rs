//! REST types under `/v1` and their client.
