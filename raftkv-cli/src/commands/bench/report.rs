//! What a benchmark came to.

use crate::output::{Format, table, write_table};
use hdrhistogram::Histogram;
use serde_json::json;
use std::io::{self, Write};
use std::time::Duration;

/// Longer latencies count as this.
const LATENCY_MAX: Duration = Duration::from_secs(120);

/// Nanoseconds, three digits.
pub(super) fn histogram() -> Histogram<u64> {
    let longest = u64::try_from(LATENCY_MAX.as_nanos()).expect("two minutes fit");
    Histogram::new_with_bounds(1_000, longest, 3).expect("the bounds are in order")
}

/// What came out.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) operation: String,
    pub(super) clients: u32,
    pub(super) connections: u32,
    pub(super) value_bytes: u32,
    pub(super) elapsed: Duration,
    pub(super) operations: u64,
    pub(super) errors: u64,
    pub(super) unknown: u64,
    pub(super) latencies: Histogram<u64>,
}

impl Report {
    fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// In microseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    /// Writes it.
    pub(super) fn print(&self, out: &mut dyn Write, format: Format) -> io::Result<()> {
        if format == Format::Json {
            let object = json!({
                "operation": self.operation,
                "clients": self.clients,
                "connections": self.connections,
                "value_bytes": self.value_bytes,
                "seconds": self.elapsed.as_secs_f64(),
                "operations": self.operations,
                "operations_per_second": self.per_second(),
                "errors": self.errors,
                "outcome_unknown": self.unknown,
                "mean_us": self.latencies.mean() / 1000.0,
                "p50_us": self.quantile(0.5),
                "p99_us": self.quantile(0.99),
                "p999_us": self.quantile(0.999),
                "max_us": self.latencies.max() as f64 / 1000.0,
            });
            return writeln!(out, "{object}");
        }
        let milliseconds = |microseconds: f64| format!("{:.3} ms", microseconds / 1000.0);
        let lines = [
            ("operation", self.operation.clone()),
            ("clients", self.clients.to_string()),
            ("connections", self.connections.to_string()),
            ("value bytes", self.value_bytes.to_string()),
            ("seconds", format!("{:.2}", self.elapsed.as_secs_f64())),
            ("operations", self.operations.to_string()),
            ("operations/s", format!("{:.0}", self.per_second())),
            ("errors", format!("{} ({} of unknown outcome)", self.errors, self.unknown)),
            ("p50", milliseconds(self.quantile(0.5))),
            ("p99", milliseconds(self.quantile(0.99))),
            ("p99.9", milliseconds(self.quantile(0.999))),
            ("max", milliseconds(self.latencies.max() as f64 / 1000.0)),
        ];
        if format == Format::Plain {
            return lines.iter().try_for_each(|(name, value)| writeln!(out, "{name}\t{value}"));
        }
        let mut rows = table(&[]);
        rows.add_rows(lines.map(|(name, value)| [name.to_owned(), value]));
        write_table(out, &rows)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn the_report_counts_and_ranks() {
        let mut latencies = histogram();
        for microseconds in 1..=1000_u64 {
            latencies.saturating_record(microseconds * 1000);
        }
        let report = Report {
            operation: "put".to_owned(),
            clients: 1,
            connections: 1,
            value_bytes: 100,
            elapsed: Duration::from_secs(2),
            operations: latencies.len(),
            errors: 3,
            unknown: 1,
            latencies,
        };
        let mut out = Vec::new();
        report.print(&mut out, Format::Json).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            (object["operations"].as_u64(), object["operations_per_second"].as_f64()),
            (Some(1000), Some(500.0))
        );
        assert_eq!((object["errors"].as_u64(), object["outcome_unknown"].as_u64()), (Some(3), Some(1)));
        let near = |name: &str, wanted: f64| {
            let found = object[name].as_f64().unwrap();
            assert!((found - wanted).abs() <= wanted / 100.0, "{name} is {found}, not about {wanted}");
        };
        near("p50_us", 500.0);
        near("p99_us", 990.0);
        near("p999_us", 999.0);
        let mut out = Vec::new();
        report.print(&mut out, Format::Table).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("operations/s") && text.contains("p99.9"), "{text}");
    }
}
