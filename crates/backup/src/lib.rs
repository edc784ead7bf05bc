//! Retention, schedules and the prune plan.
