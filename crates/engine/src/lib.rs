//! The control core of the agent as a state machine without input or output.
