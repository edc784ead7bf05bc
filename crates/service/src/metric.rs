//! The service's metrics, declared in one table.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Whether others may rely on a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// Name and meaning stay.
    Stable,
    /// May change.
    Experimental,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution of seconds.
    Seconds,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with its unit at the end.
    pub name: &'static str,
    /// What it is.
    pub form: Form,
    /// Whether others may rely on it.
    pub stability: Stability,
    /// What it tells.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $name:literal $form:ident $stability:ident $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name, form: Form::$form, stability: Stability::$stability, help: $help,
            };
        )*
        /// All of them.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    CONNECTIONS = "polder_connections" Gauge Stable "Open connections.";
    CONNECTIONS_REFUSED = "polder_connections_refused_total" Counter Stable "Connections closed at once: too many, or no TLS.";
    AGENTS = "polder_agents" Gauge Stable "Connected agents.";
    CALLS_REFUSED = "polder_calls_refused_total" Counter Stable "Calls of agents refused for lack of a trusted certificate.";
    COMMITS = "polder_commits_total" Counter Stable "Batches that were decided.";
    COMMIT_OPERATIONS = "polder_commit_operations_total" Counter Stable "Operations of decided batches.";
    COMMIT_SECONDS = "polder_commit_seconds" Seconds Stable "From a batch's arrival to its durable answer.";
    FEED_ROWS = "polder_feed_rows_total" Counter Stable "Rows sent to agents.";
    PACKS_STORED = "polder_packs_stored_total" Counter Stable "Packs taken.";
    PACKS_REFUSED = "polder_packs_refused_total" Counter Stable "Packs refused: forged, damaged or too large.";
    PACKS_VERIFIED = "polder_packs_verified_total" Counter Stable "Packs read back and found good.";
    PACKS_FAILED = "polder_packs_failed_total" Counter Stable "Packs read back and found bad.";
    DATA_WRITTEN_BYTES = "polder_data_written_bytes_total" Counter Stable "Bytes of packs taken.";
    DATA_READ_BYTES = "polder_data_read_bytes_total" Counter Stable "Bytes of packs given.";
    ADDRESSES_REFUSED = "polder_addresses_refused_total" Counter Stable "Signed addresses refused: forged or ended.";
    RECONCILER_RUNS = "polder_reconciler_runs_total" Counter Experimental "Runs of background work.";
}

/// Adds to a counter.
pub fn add(metric: Metric, count: u64) {
    debug_assert_eq!(metric.form, Form::Counter);
    metrics::counter!(metric.name).increment(count);
}

/// Sets a gauge.
pub fn set(metric: Metric, value: usize) {
    debug_assert_eq!(metric.form, Form::Gauge);
    metrics::gauge!(metric.name).set(value as f64);
}

/// Notes a duration.
pub fn seconds(metric: Metric, value: std::time::Duration) {
    debug_assert_eq!(metric.form, Form::Seconds);
    metrics::histogram!(metric.name).record(value.as_secs_f64());
}

/// The recorder of this process; made by the first service in it.
pub fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
        let builder = PrometheusBuilder::new().set_buckets(&buckets).expect("a list that is not empty");
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another recorder of metrics is in use: /metrics stays empty");
        }
        for metric in METRICS {
            let help = metric.help;
            match metric.form {
                Form::Counter => metrics::describe_counter!(metric.name, help),
                Form::Gauge => metrics::describe_gauge!(metric.name, help),
                Form::Seconds => metrics::describe_histogram!(metric.name, help),
            }
            // So that a counter that never moved is there too.
            match metric.form {
                Form::Counter => metrics::counter!(metric.name).absolute(0),
                Form::Gauge => metrics::gauge!(metric.name).set(0.0),
                Form::Seconds => (),
            }
        }
        handle
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_say_their_unit() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            let fits = match metric.form {
                Form::Counter => metric.name.ends_with("_total"),
                Form::Gauge => true,
                Form::Seconds => metric.name.ends_with("_seconds"),
            };
            assert!(fits && metric.name.starts_with("polder_"), "{}", metric.name);
        }
        recorder();
        add(COMMITS, 2);
        assert!(recorder().render().contains("polder_commits_total 2"));
    }
}
