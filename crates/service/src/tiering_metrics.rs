//! Tiering of every endpoint in Prometheus' text form, from the reports of this process.
//!
//! Written at each scrape instead of kept in the recorder: an endpoint that is gone leaves no series behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use polder_api::grpc::convert::tiering_status;
use polder_api::rest::TieringStatus;
use polder_types::EndpointId;

use crate::agents::Report;

/// A further label with its value, and a number.
type Series<'a> = Vec<(Option<(&'static str, &'a str)>, u64)>;

/// A family of series: one an endpoint, and more with a further label.
struct Family {
    name: &'static str,
    form: &'static str,
    help: &'static str,
    read: fn(&TieringStatus) -> Series<'_>,
}

const fn family(
    name: &'static str,
    form: &'static str,
    help: &'static str,
    read: fn(&TieringStatus) -> Series<'_>,
) -> Family {
    Family { name, form, help, read }
}

/// Hit rates are quotients of two of these: a rate over any time, not since the agent's start.
const FAMILIES: &[Family] = &[
    family(
        "polder_endpoint_cached_bytes",
        "gauge",
        "Bytes of the endpoint's files on its disk.",
        |tiering| vec![(None, tiering.cached_bytes)],
    ),
    family("polder_endpoint_tiered_files", "gauge", "Files that are placeholders.", |tiering| {
        vec![(None, tiering.tiered_files)]
    }),
    family("polder_endpoint_saved_bytes", "gauge", "Bytes that are only in the share.", |tiering| {
        vec![(None, tiering.saved_bytes)]
    }),
    family(
        "polder_endpoint_low_disk",
        "gauge",
        "1 while recalls are served without being kept.",
        |tiering| vec![(None, tiering.low_disk.into())],
    ),
    family("polder_endpoint_missing_bytes", "gauge", "Missing to the free-space policy.", |tiering| {
        vec![(None, tiering.missing_bytes)]
    }),
    family("polder_endpoint_orphaned_files", "gauge", "Files whose mark is damaged.", |tiering| {
        vec![(None, tiering.orphaned_files)]
    }),
    family("polder_endpoint_opens_total", "counter", "Opens of files that are not empty.", |tiering| {
        vec![(None, tiering.opens)]
    }),
    family("polder_endpoint_opens_here_total", "counter", "Opens that found all bytes here.", |tiering| {
        vec![(None, tiering.opens_here)]
    }),
    family(
        "polder_endpoint_read_bytes_total",
        "counter",
        "Bytes that were read; a whole file by its size.",
        |tiering| vec![(None, tiering.read_bytes)],
    ),
    family("polder_endpoint_read_here_bytes_total", "counter", "Bytes that were read and here.", |tiering| {
        vec![(None, tiering.read_bytes_here)]
    }),
    family("polder_endpoint_recalls_total", "counter", "Reads that waited for the share.", |tiering| {
        tiering.programs.iter().map(|one| (Some(("program", one.program.as_str())), one.reads)).collect()
    }),
    family("polder_endpoint_recalled_bytes_total", "counter", "Bytes fetched for a program.", |tiering| {
        tiering.programs.iter().map(|one| (Some(("program", one.program.as_str())), one.bytes)).collect()
    }),
    family("polder_endpoint_recalls_refused_total", "counter", "Reads that were refused.", |tiering| {
        tiering.programs.iter().map(|one| (Some(("program", one.program.as_str())), one.refused)).collect()
    }),
    family("polder_endpoint_staying_files", "gauge", "Files that do not leave, by reason.", |tiering| {
        tiering.stays.iter().map(|one| (Some(("reason", one.reason.as_str())), one.files)).collect()
    }),
    family("polder_endpoint_staying_bytes", "gauge", "Bytes of files that do not leave.", |tiering| {
        tiering.stays.iter().map(|one| (Some(("reason", one.reason.as_str())), one.bytes)).collect()
    }),
];

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The text for these reports.
pub fn render(reports: &[(EndpointId, Report)]) -> String {
    let tiering: BTreeMap<EndpointId, TieringStatus> =
        reports.iter().filter_map(|(id, report)| Some((*id, tiering_status(&report.status)?))).collect();
    let mut out = String::new();
    if tiering.is_empty() {
        return out;
    }
    for Family { name, form, help, read } in FAMILIES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {form}");
        for (endpoint, status) in &tiering {
            for (label, value) in read(status) {
                let label = label.map(|(key, value)| format!(",{key}=\"{}\"", escaped(value)));
                let label = label.unwrap_or_default();
                let _ = writeln!(out, "{name}{{endpoint=\"{endpoint}\"{label}}} {value}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use polder_api::grpc::pb;
    use polder_types::Timestamp;

    use super::*;

    #[test]
    fn series_have_their_endpoint_and_more() {
        let report = |status| Report { status, at: Timestamp::default() };
        let plain = (EndpointId([1; 16]), report(pb::EndpointStatus::default()));
        assert_eq!(render(std::slice::from_ref(&plain)), "", "it does not tier");
        let program = pb::TieringProgram { name: "a\"b\\".into(), reads: 3, bytes: 7, refused: 0 };
        let tiering = pb::TieringStatus { opens: 5, programs: vec![program], ..Default::default() };
        let status = pb::EndpointStatus { cached_bytes: 9, tiering: Some(tiering), ..Default::default() };
        let text = render(&[plain, (EndpointId([2; 16]), report(status))]);
        let id = EndpointId([2; 16]);
        for line in [
            "# TYPE polder_endpoint_cached_bytes gauge".to_owned(),
            format!("polder_endpoint_cached_bytes{{endpoint=\"{id}\"}} 9"),
            format!("polder_endpoint_opens_total{{endpoint=\"{id}\"}} 5"),
            format!("polder_endpoint_recalled_bytes_total{{endpoint=\"{id}\",program=\"a\\\"b\\\\\"}} 7"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains(&EndpointId([1; 16]).to_string()));
    }

    #[test]
    fn names_are_unique_and_say_what_they_are() {
        let mut names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            assert_eq!(family.name.ends_with("_total"), family.form == "counter", "{}", family.name);
        }
    }
}
